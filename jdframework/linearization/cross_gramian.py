"""The same objectives on other, independent batches, and the cross-gramian that they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from jdframework.linalg.gramian import gramian, inner_products
from jdframework.linearization import Linearization, Wrapped
from jdframework.linearization.objectives import (
    Losses,
    Objectives,
    check_differentiable,
    in_order,
    objectives,
)
from jdframework.protocols import Engine, TakesBatches

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


class Crossed(NamedTuple):
    """What two batches give."""

    cross: Float[Tensor, "m m"]
    """``J₁ J₂ᵀ``."""
    gramian: Float[Tensor, "m m"]
    """``J₁ J₁ᵀ``."""


class WithCrossGramian(Wrapped):
    """A linearization whose weights come from two batches' gradients, one of which may be its own.

    :param inner: What the update is taken from.
    :param crossed: What the two batches give.
    :param is_of_losses: Whether the first of them is that of the losses.
    """

    def __init__(self, inner: Linearization, crossed: Crossed, *, is_of_losses: bool) -> None:
        super().__init__(inner)
        self._crossed, self._is_of_losses = crossed, is_of_losses

    def gramians(self) -> list[Float[Tensor, "m m"] | None]:
        """The cross-gramian, in the place of the Gramian."""
        return [self._crossed.cross]

    @property
    def covered(self) -> Sequence[Tensor]:
        """None: the statistics may be of other batches than the update."""
        return ()

    def recorded(self, gramians: Sequence[Tensor | None]) -> Float[Tensor, "m m"] | None:
        """The Gramian of the losses, if it is known."""
        return self._crossed.gramian if self._is_of_losses else None


def cross_gramian(engine: Engine, first: Objectives, second: Objectives) -> Crossed:
    """The inner products of two batches' gradients, and of the first one's; both graphs stay.

    Where the second batch's losses are separate tensors, whose rows an engine takes one by one
    anyway, its Jacobian is never there as a whole.

    :param engine: One that forms the Jacobian.
    :param first: One batch's objectives.
    :param second: The other's.
    """
    rows = engine.compute_jacobian(first.as_engine_input())
    if len(second.tensors) == 1:
        cross = inner_products(rows, engine.compute_jacobian(second.as_engine_input()))
    else:
        others = (engine.compute_jacobian([loss]) for loss in second.tensors)
        cross = torch.cat([inner_products(rows, row) for row in others], dim=1)
    return Crossed(cross, gramian(rows))


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
