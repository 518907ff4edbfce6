"""The checked arguments of one call of ``Descent.backward``."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from jdframework.descent.finite import FiniteCheck
from jdframework.linearization.features import Features
from jdframework.linearization.loss_scale import LossScale
from jdframework.linearization.objectives import Objectives


@dataclass(frozen=True)
class BackwardCall:
    """The objectives of a step, and how they are to be treated."""

    given: Objectives
    """What is minimised."""
    others: tuple[Objectives, ...]
    """The same objectives on independent batches."""
    features: Features | None
    """The shared representation, if there is one."""
    retain_graph: bool
    """Whether the graph can be used again."""
    scale: LossScale
    """What the losses are multiplied by for mixed precision."""
    finite: FiniteCheck
    """What looks for NaN and infinity on the way."""
    values: Float[Tensor, "..."]
    """The losses' values, detached."""

    @property
    def batches(self) -> tuple[Objectives, ...]:
        """All batches, that of the losses first."""
        return (self.given, *self.others)
