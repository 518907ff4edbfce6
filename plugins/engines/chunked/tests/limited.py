"""A device with little memory, simulated on the CPU; what is mapped from a file takes none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Limited(TorchDispatchMode):
    """Raises ``OutOfMemoryError`` where the tensors made under it would hold more than a limit.

    :param limit: In bytes; None only counts.
    :param error: What is raised instead.
    """

    def __init__(self, limit: int | None = None, error: Exception | None = None) -> None:
        super().__init__()
        self._limit, self._error = limit, error
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = self.refused = 0

    @property
    def live(self) -> int:
        """How many bytes are live now."""
        gone = [key for key, (storage, _) in self._live.items() if storage.expired()]
        for key in gone:
            del self._live[key]
        return sum(size for _, size in self._live.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in given:
                self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        live = self.live
        if self._limit is not None and live > self._limit:
            self.refused += 1
            raise self._error or torch.OutOfMemoryError(f"simulated: out of memory, {live} bytes")
        self.peak = max(self.peak, live)
        return result


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
