"""FairGrad: weights that are alpha-fair to all objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import GramianWeighting
from jdframework.config import Config, Paper
from jdframework.linalg import fair_weights

__all__ = ["FairGrad", "FairGradConfig"]


class FairGradConfig(Config):
    """Settings of FairGrad."""

    alpha: float = Field(
        1.0,
        ge=0.0,
        description="The kind of fairness: 0 is the mean, 1 proportional fairness (the direction "
        "of Nash-MTL), larger values care more about the objectives that gain least.",
    )


class FairGrad(GramianWeighting):
    """Distributes the improvement among the objectives by alpha-fairness.

    .. math:: G a = a^{-1/\\alpha}, \\quad a > 0

    (Ban & Ji 2024, equation 4.) The update's direction maximises
    :math:`\\sum_i (g_i \\cdot d)^{1-\\alpha} / (1 - \\alpha)` over a ball (the logarithm where
    ``alpha = 1``). With ``alpha = 0`` the weights are ``1/m``; with ``alpha = 1`` they are those of
    ``nash-mtl(max_norm=0)``; as alpha grows, all improvements become alike. Multiplying the
    Jacobian by ``c`` multiplies the update by :math:`c^{(1-\\alpha)/(1+\\alpha)}`.

    The equations are solved by Newton's method in units in which each gradient alone would have
    weight one, to 1e-9 or better. torchjd and the authors' code use least squares with absolute
    tolerances, which for gradients of norm 1e-3 stop with the equations off by most of their size;
    the latter also multiplies by ``m`` and clips to norm one. For alpha from 0.05 to 5, gradients
    of any scale are solved. Beyond that, the weights of unequal gradients can leave the range of
    float64, of dependent ones from 8 on: an error says so.

    A zero gradient gets weight zero and does not stop the others. Where a convex combination of
    the others is zero (the point is Pareto-stationary), no direction helps all, and no finite
    solution exists: all weights are then zero, and so is the update.

    :param alpha: The kind of fairness, from 0; 1 as in the authors' code.
    :raises SolverError: if the equations cannot be solved to the promised precision.

    >>> import torch
    >>> FairGrad(alpha=0.5)(torch.tensor([[8.0, 0.0], [0.0, 0.125]]))
    tensor([0.5000, 2.0000])
    """

    Config = FairGradConfig
    config: FairGradConfig
    claims: ClassVar[Mapping[str, Any]] = {"scale": None}
    paper = Paper(
        title="Fair Resource Allocation in Multi-Task Learning",
        authors="Hao Ban, Kaiyi Ji",
        venue="ICML",
        year=2024,
        url="https://arxiv.org/abs/2402.15638",
    )

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """The alpha-fair weights; zero where no finite weight is."""
        m, alpha = len(gramian), self.config.alpha
        if alpha == 0.0:
            return torch.where(gramian.isfinite().all(), gramian.new_full((m,), 1 / m), torch.nan)
        found = fair_weights(gramian, gramian.new_ones(m), alpha)
        return torch.where(found.isinf(), 0.0, found)
