"""Runs users' hooks on parameters for the update, once, and for no row of the Jacobian."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from jdframework.autograd.rollback import GradRollback


@contextmanager
def without_leaf_hooks(tensors: Iterable[Any]) -> Iterator[None]:
    """Leaves out, in a backward pass, the hooks that ``Tensor.register_hook`` put on leaves.

    Autograd would run them for each row of a Jacobian, on which they may do something else than on
    the update: clip it, count it, or refuse to run outside of ``backward``. Hooks on tensors within
    the graph are a part of the derivative, and run.

    :param tensors: What is differentiated by; others than leaves are left alone.
    """
    hooked = [
        hooks
        for tensor in tensors
        if isinstance(tensor, Tensor) and (hooks := tensor._backward_hooks) and tensor.is_leaf
    ]
    if not hooked:
        yield
        return
    with _emptied(hooked):
        yield


def accumulate_through_hooks(leaves: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Lets autograd itself add to ``.grad``, by way of the leaves' hooks, which may replace it.

    The hooks run as in a backward pass, which it is; what waits for ``.grad`` to be complete does
    not run yet. If a hook raises, every ``.grad`` is as before.

    :param leaves: Those with hooks.
    :param gradients: One each.
    """
    waiting = [hooks for leaf in leaves if (hooks := _waiting_on(leaf))]
    with GradRollback(leaves), _emptied(waiting):
        torch.autograd.backward(list(leaves), list(gradients))


def run_waiting_hooks(tensors: Iterable[Tensor]) -> None:
    """Runs the post-accumulate-grad hooks of some tensors, in the tensors' order.

    A hook that raises ends the rest, as in autograd: the earlier ones have run by then.

    :param tensors: Whose ``.grad`` is complete.
    """
    for tensor in tensors:
        for hook in list((_waiting_on(tensor) or {}).values()):
            hook(tensor)


def has_waiting_hooks(tensor: Tensor) -> bool:
    """Whether anything waits for the tensor's ``.grad`` to be complete."""
    return bool(_waiting_on(tensor))


def _waiting_on(tensor: Tensor) -> dict[int, Any] | None:
    hooks: dict[int, Any] | None = getattr(tensor, "_post_accumulate_grad_hooks", None)
    return hooks


@contextmanager
def _emptied(registries: Sequence[dict[int, Any]]) -> Iterator[None]:
    """Takes the hooks out of their registries, which autograd and their handles hold, for a while.

    :param registries: From a hook's number to the hook.
    """
    kept = [dict(registry) for registry in registries]
    try:
        for registry in registries:
            registry.clear()
        yield
    finally:
        for registry, hooks in zip(registries, kept, strict=True):
            added = dict(registry)
            registry.clear()
            registry.update(hooks | added)
