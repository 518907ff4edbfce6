"""Tensors within a graph that retain their gradient, and what a batched pass leaves in them."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

RETAINED: Final = "a tensor on the way retains its gradient"
"""Why a graph is then differentiated one objective at a time."""
_YOUNG: Final = (0, 1)
"""The generations of what was made lately, as the garbage collector counts them."""
_ALL: Final = (None,)


def drop_dead_gradients(*, recent: bool = False) -> bool:
    """Removes what ``torch.vmap`` leaves, dead, in the ``.grad`` of tensors that retain it.

    Such a gradient belongs to a pass that is over: whoever reads it, or adds to it in the next
    pass, gets an error. A graph does not tell which of its tensors retain their gradient, so those
    that are alive are looked at.

    :param recent: Whether to look only at what was made lately, as the tensors of this step were:
        in no time, where a look at everything takes a tenth of a second.
    :return: Whether there was one.
    """
    dead: list[Tensor] = []
    for age in _YOUNG if recent else _ALL:
        # Not one list of all: it would be among the objects it lists, and keep them alive.
        dead += [candidate for candidate in gc.get_objects(age) if _is_left_behind(candidate)]
    for tensor in dead:
        tensor.grad = None
    return bool(dead)


def _is_left_behind(candidate: Any) -> bool:
    # Not isinstance, which some lazily imported objects answer by importing.
    if not issubclass(type(candidate), Tensor) or candidate.is_leaf or not candidate.retains_grad:
        return False
    gradient = candidate.grad
    return gradient is not None and torch._C._functorch.is_functorch_wrapped_tensor(gradient)


@contextmanager
def leaving_grad_alone(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Restores the ``.grad`` of tensors that retain it after a pass, which has added to it.

    :param tensors: Of which some may not be leaves.
    """
    retained = [tensor for tensor in tensors if tensor.retains_grad and not tensor.is_leaf]
    before = [tensor.grad for tensor in retained]
    try:
        yield
    finally:
        for tensor, grad in zip(retained, before, strict=True):
            tensor.grad = grad
