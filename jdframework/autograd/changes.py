"""Whether anybody has changed tensors since they were last looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

_ENTRIES: Final = 256
"""How many entries of each tensor are remembered at most."""


class Snapshot:
    """What some tensors are now: their versions, and some entries of each.

    An optimizer raises a tensor's version, however small its step. What writes to ``tensor.data``,
    or by a kernel of its own, does not, and is seen in the entries alone.

    :param tensors: Any.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._version = version_of(tensors)
        self._entries = [_some_of(tensor) for tensor in tensors]

    def has_later_versions(self) -> bool:
        """Whether torch knows of a change; asks no device."""
        return version_of(self._tensors) != self._version

    def is_kept(self) -> bool:
        """Whether all remembered entries are surely as they were; waits for the device."""
        return all(map(_are_same, self._entries, map(_some_of, self._tensors)))


def version_of(tensors: Sequence[Tensor]) -> int:
    """A number that grows whenever torch changes one of the tensors in place."""
    return sum(tensor._version for tensor in tensors)


def _some_of(tensor: Tensor) -> Tensor | None:
    """A copy of entries from all over the tensor, or of one row of it where they lie apart.

    :return: None for what is no plain tensor, whose entries may be elsewhere.
    """
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_meta:
        return None
    if tensor.layout is not torch.strided:
        return None
    entries = tensor.detach()
    while entries.ndim > 1 and not entries.is_contiguous():
        entries = entries[0]
    entries = entries.reshape(-1)
    return entries[:: max(1, len(entries) // _ENTRIES)].clone()


def _are_same(before: Tensor | None, now: Tensor | None) -> bool:
    if before is None or now is None or before.device != now.device or before.dtype != now.dtype:
        return False
    return torch.equal(before, now)
