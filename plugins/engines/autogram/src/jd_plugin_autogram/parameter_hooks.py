"""Hooks on parameters see the update, once a step, as ``losses.backward(weights)`` shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor


@contextmanager
def without_hooks(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Lets the passes that find the Gramian run no hooks of parameters.

    :param parameters: Leaves, with or without hooks.
    """
    tables = [p._backward_hooks for p in parameters if p._backward_hooks]
    kept = [dict(table) for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        for table, own in zip(tables, kept, strict=True):
            table.update(own)


def hooked(
    targets: Sequence[Tensor], gradients: Sequence[Tensor | None]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """What the hooks of parameters make of their gradients, which they see as a whole.

    :param targets: Parameters, one of them several times where its gradient comes in parts.
    :param gradients: One each.
    """
    if not any(target._backward_hooks for target in targets):
        return list(targets), list(gradients)
    whole: dict[int, tuple[Tensor, Tensor | None]] = {}
    for target, gradient in zip(targets, gradients, strict=True):
        before = whole.get(id(target), (target, None))[1]
        both = before is not None and gradient is not None
        total = before + gradient if both else (gradient if before is None else before)  # type: ignore[operator]
        whole[id(target)] = target, total
    found = [_after_hooks(target, gradient) for target, gradient in whole.values()]
    return [target for target, _ in whole.values()], found


def _after_hooks(target: Tensor, gradient: Tensor | None) -> Tensor | None:
    if gradient is None:
        return None
    for hook in list((target._backward_hooks or {}).values()):
        answer = hook(gradient)
        gradient = gradient if answer is None else answer
    return gradient
