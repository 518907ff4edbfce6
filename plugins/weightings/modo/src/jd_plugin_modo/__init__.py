"""MoDo: the weights move against the products of gradients of two independent batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import GramianWeighting, Remembering
from jdframework.config import Config, Paper
from jdframework.linalg import simplex_projection
from jdframework.protocols.names import Need

__all__ = ["MoDo", "MoDoConfig"]


class MoDoConfig(Config):
    """Settings of MoDo."""

    gamma: float = Field(
        0.1,
        gt=0.0,
        description="How far the weights move; squared gradients times this should be about one.",
    )
    rho: float = Field(
        0.1,
        ge=0.0,
        description="How strongly the weights are drawn towards being equal.",
    )


class MoDo(Remembering, GramianWeighting):
    """Moves the weights down the gradient of the squared update, estimated on two batches.

    .. math::
        \\lambda \\leftarrow \\Pi_\\Delta \\big( \\lambda
        - \\gamma (J_1 J_2^\\top + \\rho I) \\lambda \\big)

    from :math:`\\lambda = (1/m, \\dots, 1/m)`, where :math:`\\Pi_\\Delta` is the projection on the
    probability simplex (Chen et al. 2024, equation 2.9). With the Jacobians :math:`J_1` and
    :math:`J_2` of two independent batches, the product is an unbiased estimate, which that of one
    batch with itself is not. ``jd.Descent`` takes them in one call: ``descent.backward(losses,
    independent=other)`` takes :math:`J_1` from ``losses``, :math:`J_2` from ``other``;
    ``independent=(other, third)`` takes both from these two, so that the weights do not depend on
    the batch they are used on. Either way the update is :math:`J^\\top \\lambda` of ``losses``.

    That with three batches is LibMTL's, and the authors' code with ``three_grads``; their code
    without it, and torchjd's example, use the mean of both batches' gradients for the update.

    The method does not treat small gradients like large ones: ``gamma`` times the squared norms
    says how fast the weights move. ``λ`` is in ``state_dict()``, which does not load in torchjd
    0.18. As ``jd.aggregator("modo")``, or where you call it with one batch's Gramian, it is the
    deterministic method, in which all batches are one.

    :param gamma: How far the weights move.
    :param rho: How strongly they are drawn towards being equal.
    :raises ConfigError: at the call, if the weights are those of another number of objectives.

    >>> first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> second = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    >>> MoDo(rho=0.0)(first @ second.T)
    tensor([0.4500, 0.5500])
    """

    needs: frozenset[Need] = frozenset({"cross-gramian"})
    independent_batches: ClassVar[tuple[int, ...]] = (1, 2)
    claims: ClassVar[Mapping[str, Any]] = {"scale": None}
    Config = MoDoConfig
    config: MoDoConfig
    memory = ("weights",)
    paper = Paper(
        title="Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and "
        "Conflict-Avoidance",
        authors="Lisha Chen, Heshan Fernando, Yiming Ying, Tianyi Chen",
        venue="JMLR",
        year=2024,
        url="https://www.jmlr.org/papers/v25/23-1287.html",
    )

    weights: Tensor
    """``λ`` ``[m]``; ``[0]`` before the first call."""

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """The weights after one projected step.

        :param gramian: ``J₁ J₂ᵀ``, which need not be symmetric.
        """
        m = len(gramian)
        before = self.recalled("weights", gramian.new_full((m,), 1 / m))
        slope = gramian @ before + self.config.rho * before
        after = simplex_projection(before - self.config.gamma * slope)
        self.weights = torch.where(after.isfinite().all(), after, before)
        return after
