"""The record of one step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from jdframework import linalg


@dataclass(frozen=True)
class Step:
    """The record of one ``Descent.backward``. All tensors are detached."""

    names: tuple[str, ...]
    """The objectives' names; their indices, as text, where none were given."""
    skipped: bool
    """True if the step was left out because of a value that is not finite."""
    losses: Float[Tensor, " m"]
    """The values of the losses."""
    weights: Float[Tensor, " m"] | None
    """Their weights; of a scalarizer, its derivative with respect to each loss. None for an
    aggregator that is no weighted sum, and in a skipped step."""
    gramian: Float[Tensor, "m m"] | None
    """Inner products of their gradients; None where the method did without, and if skipped."""
    engine: str
    """The engine's name; ``"autograd"`` for the single ordinary backward pass of a scalarizer."""
    reason: str = ""
    """Why it ran on that engine, in a sentence; ``jd.explain`` tells more."""

    @cached_property
    def norms(self) -> Float[Tensor, " m"]:
        """The norm of each objective's gradient.

        :raises ValueError: if the step has no Gramian.
        """
        return self._measured().diagonal().clamp(min=0.0).sqrt()

    @cached_property
    def cosines(self) -> Float[Tensor, "m m"]:
        """The cosine between each two gradients, 0 where one is zero.

        :raises ValueError: if the step has no Gramian.
        """
        return linalg.cosines(self._measured())

    @cached_property
    def conflict(self) -> float:
        """The share of pairs of objectives whose inner product is negative; 0 for one objective.

        :raises ValueError: if the step has no Gramian.
        """
        gramian = self._measured()
        m = len(gramian)
        if m == 1:
            return 0.0
        above = torch.triu_indices(m, m, offset=1, device=gramian.device)
        return float((gramian[above[0], above[1]] < 0).double().mean())

    def _measured(self) -> Tensor:
        if self.gramian is None:
            why = "it was skipped" if self.skipped else f"{self.engine} measured no gradients"
            raise ValueError(f"this step has no Gramian: {why}")
        return self.gramian
