"""What a step that fails leaves as it was: ``.grad`` fields, and the state of a method."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from jdframework.bases import Remembering


class GradientsUndone:
    """A context that puts ``.grad`` back as it was if its body raises.

    :param leaves: The tensors whose ``.grad`` the body may change.
    """

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        self._before = [
            (leaf, leaf.grad, None if leaf.grad is None else leaf.grad.clone()) for leaf in leaves
        ]

    def __enter__(self) -> None:
        pass

    @torch.no_grad()
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            return
        for leaf, grad, copied in self._before:
            leaf.grad = grad if grad is None or copied is None else grad.copy_(copied)


class StateUndone:
    """A context that puts a method's state back as it was if its body raises.

    What :class:`~jdframework.bases.Remembering` keeps may be as large as the Jacobian; it is
    replaced in each step and never changed, so that a reference suffices. Everything else in
    ``state_dict()`` is copied.

    :param method: A weighting, an aggregator or a scalarizer.
    """

    def __init__(self, method: nn.Module) -> None:
        self._method = method
        self._remembered = {
            f"{path}.{name}" if path else name: (owner, name, owner.get_buffer(name))
            for path, owner in method.named_modules()
            if isinstance(owner, Remembering)
            for name in owner.memory
        }
        state: dict[str, Any] = method.state_dict()
        self._rest = {
            key: copy.deepcopy(value) for key, value in state.items() if key not in self._remembered
        }

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            return
        if self._rest:
            self._method.load_state_dict(self._rest, strict=False)
        for owner, name, tensor in self._remembered.values():
            setattr(owner, name, tensor)
