"""Reads the same objectives on other, independent batches, as a user gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from jdframework.linearization.objectives import (
    Losses,
    Objectives,
    check_differentiable,
    in_order,
    objectives,
)
from jdframework.protocols import TakesBatches

Independent: TypeAlias = "Losses | Sequence[Losses]"
"""The losses of one batch, or a sequence of those of several."""


def independent_batches(
    method: Any, independent: Independent | None, given: Objectives
) -> tuple[Objectives, ...]:
    """What the user gave as ``independent``, batch by batch, in the order of the losses.

    A sequence of scalars is one batch, unless there is one objective.

    :param method: A method of the cross-gramian.
    :param independent: The losses of one batch, or a sequence of those of several.
    :param given: The losses that the update is for.
    :raises ValueError: if there are none, or too few or too many batches, or one does not have the
        same objectives.
    """
    allowed = method.independent_batches if isinstance(method, TakesBatches) else (1, 2)
    needed = f"{method.name} needs the same objectives on {_how_many(allowed)}"
    if independent is None:
        example = "…" if 1 in allowed else "(…, …)"
        raise ValueError(f"{needed}: backward(losses, independent={example})")
    batches = _batches(independent, given.m)
    if len(batches) not in allowed:
        raise ValueError(f"{needed}, but independent has {len(batches)}")
    several = len(batches) > 1
    return tuple(
        _matched(batch, given, f"independent[{i}]" if several else "independent")
        for i, batch in enumerate(batches)
    )


def _matched(losses: Losses, given: Objectives, which: str) -> Objectives:
    """One batch's losses in the order of the given ones."""
    batch = objectives(losses, which)
    check_differentiable(batch, which)
    if batch.m != given.m:
        raise ValueError(f"{which} has {batch.m} objectives, but losses has {given.m}")
    return in_order(batch, given.names, which) if isinstance(losses, Mapping) else batch


def _batches(independent: Independent, m: int) -> list[Any]:
    if isinstance(independent, Tensor | Mapping):
        return [independent]
    entries = list(independent)
    scalars = all(isinstance(entry, Tensor) and entry.numel() == 1 for entry in entries)
    if scalars and not (m == 1 and len(entries) > 1):
        return [entries]
    return entries


def _how_many(allowed: Sequence[int]) -> str:
    if 1 not in allowed:
        return "two independent batches"
    return "an independent batch, or two" if 2 in allowed else "an independent batch"
