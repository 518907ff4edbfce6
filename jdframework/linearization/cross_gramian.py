"""The cross-gramian of two batches, and the linearization whose weights come from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from jdframework.linalg.gramian import gramian, inner_products
from jdframework.linearization import Linearization, Wrapped
from jdframework.linearization.blocks import as_reals
from jdframework.linearization.objectives import Objectives
from jdframework.protocols import Engine


class BatchProducts(NamedTuple):
    """The inner products of the gradients of two batches."""

    cross: Float[Tensor, "m m"]
    """``J₁ J₂ᵀ``."""
    gramian: Float[Tensor, "m m"]
    """``J₁ J₁ᵀ``."""


class WithCrossGramian(Wrapped):
    """A linearization whose weights come from two batches' gradients, one of which may be its own.

    :param inner: What the update is taken from.
    :param products: Those of the two batches.
    :param is_of_losses: Whether the first of them is that of the losses.
    """

    def __init__(
        self, inner: Linearization, products: BatchProducts, *, is_of_losses: bool
    ) -> None:
        super().__init__(inner)
        self._products, self._is_of_losses = products, is_of_losses

    def gramians(self) -> list[Float[Tensor, "m m"] | None]:
        """The cross-gramian, in the place of the Gramian."""
        return [self._products.cross]

    @property
    def covered(self) -> Sequence[Tensor]:
        """Nothing: the statistics may be of other batches than the update."""
        return ()

    def recorded(self, gramians: Sequence[Tensor | None]) -> Float[Tensor, "m m"] | None:
        """The Gramian of the losses, if it is known."""
        return self._products.gramian if self._is_of_losses else None


def cross_gramian(engine: Engine, first: Objectives, second: Objectives) -> BatchProducts:
    """The inner products of two batches' gradients, and of the first one's; both graphs stay.

    Where the second batch's losses are separate tensors, whose rows an engine takes one by one
    anyway, its Jacobian is never there as a whole.

    :param engine: One that forms the Jacobian.
    :param first: One batch's objectives.
    :param second: The other's.
    """
    rows = _rows(engine, first.as_engine_input())
    if len(second.tensors) == 1:
        cross = inner_products(rows, _rows(engine, second.as_engine_input()))
    else:
        others = (_rows(engine, [loss]) for loss in second.tensors)
        cross = torch.cat([inner_products(rows, row) for row in others], dim=1)
    return BatchProducts(cross, gramian(rows))


def _rows(engine: Engine, losses: Tensor | list[Tensor]) -> list[Tensor]:
    """The blocks of the Jacobian, complex numbers as pairs."""
    return [as_reals(block) for block in engine.compute_jacobian(losses)]
