"""Nash-MTL: the bargaining solution, in which every objective gains the same share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import GramianWeighting, Remembering
from jdframework.config import Config, Paper
from jdframework.errors import ConfigError
from jdframework.linalg import fair_weights

__all__ = ["NashMTL", "NashMTLConfig"]


class NashMTLConfig(Config):
    """Settings of Nash-MTL."""

    max_norm: float = Field(
        1.0,
        ge=0.0,
        description="The largest norm of the update, to which longer ones are shortened; "
        "0 shortens none. Before that, the norm is always the root of the number of objectives.",
    )
    update_weights_every: int = Field(
        1,
        ge=1,
        description="The bargaining problem is solved at every such call, and its weights are "
        "used for the calls between.",
    )


class NashMTL(Remembering, GramianWeighting):
    """Solves the bargaining game among the objectives.

    .. math:: G a = 1 / a, \\quad a > 0

    (Navon et al. 2022, Claim 3.1.) The update :math:`d = J^\\top a` maximises
    :math:`\\sum_i \\log (g_i \\cdot d)` over a ball, whatever the scale of each objective; its norm
    is the root of ``m``, so with ``max_norm=1`` it is always one. The equations are solved by
    Newton's method on the row-normalised Gramian to 1e-9 or better. The authors' sequence of convex
    programs, which torchjd and others run, often ends far from their solution: with five objectives
    some, with twenty most, of its weights miss the equations by more than their own size.

    A zero gradient gets weight zero and does not stop the others. Where a convex combination of
    the others is zero (the point is Pareto-stationary), no direction helps all, and no finite
    solution exists: all weights are then zero, and so is the update.

    A solution that is to be used again, and the number of calls, are in ``state_dict()``.

    :param max_norm: The largest norm of the update; 0 for none.
    :param update_weights_every: At every how many calls the problem is solved.
    :raises ConfigError: at a call that reuses weights for another number of objectives.
    :raises SolverError: if the equations cannot be solved to the promised precision.

    >>> import torch
    >>> NashMTL(max_norm=0.0)(torch.tensor([[4.0, 0.0], [0.0, 0.25]]))
    tensor([0.5000, 2.0000])
    """

    Config = NashMTLConfig
    config: NashMTLConfig
    memory = ("solution",)
    claims: ClassVar[Mapping[str, Any]] = {"scale": "invariant"}
    paper = Paper(
        title="Multi-Task Learning as a Bargaining Game",
        authors="Aviv Navon, Aviv Shamsian, Idan Achituve, Haggai Maron, Kenji Kawaguchi, "
        "Gal Chechik, Ethan Fetaya",
        venue="ICML",
        year=2022,
        url="https://arxiv.org/abs/2202.01017",
    )

    solution: Tensor
    """The weights ``[m]`` for the calls until the next solution; ``[0]`` where there is none."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._calls = 0

    def reset(self) -> None:
        """Forgets the last solution: the next call solves the problem."""
        super().reset()
        self._calls = 0

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """The bargaining weights, shortened to ``max_norm``."""
        weights = self._bargained(gramian)
        if self.config.max_norm == 0.0:
            return weights.clone()
        length = (weights @ gramian @ weights).clamp(min=0.0).sqrt()
        return weights * (self.config.max_norm / length).clamp(max=1.0)

    def get_extra_state(self) -> Tensor:
        """The number of calls, for ``state_dict()``."""
        return torch.tensor(self._calls, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Puts it back."""
        self._calls = int(state)

    def _bargained(self, gramian: Tensor) -> Tensor:
        every = self.config.update_weights_every
        if self._calls % every:
            weights = self._reused(gramian)
            self._calls += 1
            # What the next call does not use says nothing of its objectives and their order.
            if self._calls % every == 0:
                Remembering.reset(self)
            return weights
        found = fair_weights(gramian, gramian.new_ones(len(gramian)), alpha=1.0)
        solution = torch.where(found.isinf(), 0.0, found)
        # One call with NaN must not decide the calls after it: the next one solves again.
        if every > 1 and bool(solution.isfinite().all()):
            self._calls += 1
            self.solution = solution
        return solution

    def _reused(self, gramian: Tensor) -> Tensor:
        if len(self.solution) != len(gramian):
            raise ConfigError(
                f"{self.name} has weights for {len(self.solution)} objectives to reuse "
                f"(update_weights_every={self.config.update_weights_every}), but there are "
                f"{len(gramian)}: call reset() first"
            )
        return self.solution.to(gramian)
