"""SDMGrad: near a preferred direction, the one that serves all objectives, from three batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import GramianWeighting, PreferenceConfig, Preferring, Remembering
from jdframework.config import Paper
from jdframework.linalg import simplex_projection
from jdframework.protocols.names import Need

__all__ = ["SDMGrad", "SDMGradConfig"]


class SDMGradConfig(PreferenceConfig):
    """Settings of SDMGrad."""

    lr: float = Field(
        10.0,
        gt=0.0,
        description="How far the weights move in one inner step, the gradients having length one.",
    )
    momentum: float = Field(
        0.5, ge=0.0, lt=1.0, description="The share of the last inner step in the next one."
    )
    n_iter: int = Field(20, ge=1, description="How many inner steps each call takes.")
    lambda_: float = Field(
        0.3,
        ge=0.0,
        description="How strongly the update is drawn towards the preferred direction.",
    )


class SDMGrad(Remembering, Preferring, GramianWeighting):
    """Finds the weights by projected gradient steps on two batches, and uses them on a third.

    .. math::
        a = \\frac{w + \\lambda b}{1 + \\lambda}, \\qquad
        v \\leftarrow \\mu v + A (w + \\lambda b), \\quad
        w \\leftarrow \\Pi_\\Delta(w - \\eta v), \\qquad
        A = \\frac{J_1 J_2^\\top}{s^2}

    ``n_iter`` times each call, where :math:`\\Pi_\\Delta` is the projection on the probability
    simplex, :math:`s` the mean of the roots of the positive diagonal entries of
    :math:`J_1 J_2^\\top`, the others counting as zero, :math:`\\eta` is ``lr``, :math:`\\mu` is
    ``momentum`` and ``v`` starts from zero at each call (Xiao et al. 2023; the scale: section
    6.1). ``w`` goes on from call to call, from ``1/m`` each. ``jd.Descent`` takes the two batches
    in one call, ``descent.backward(losses, independent=(second, third))``, and the update is the
    weighted sum of the gradients of ``losses``. The authors' code takes one and the same batch
    three times, by an oversight; torchjd and LibMTL do not.

    In the deterministic limit, ``w`` minimises :math:`\\lVert J^\\top (w + \\lambda b) \\rVert` on
    the simplex. The inner steps aim at that, but with ``lr=10``, which is the published value, they
    step over it, even if all batches are one: on random gradients of 20 entries the square is
    about 2 times the least possible for 2 objectives, 4 times for 5 and 13 times for 10; of 1000
    entries, 1.6 times, 2.5 times and 3 times. With ``lr=0.5`` it is the least to 1e-3 after one
    call. The large steps also let rounding decide
    where all directions are equally good, as between exactly opposite gradients.

    Small gradients are treated like large ones; torchjd adds 1e-8 to :math:`s^2`. Where no diagonal
    entry is positive, which noise can bring about, :math:`s^2` is the largest entry instead. The
    state is in ``state_dict()``, which does not load in torchjd 0.18. As
    ``jd.aggregator("sdmgrad")``, or called with one batch's Gramian, all batches are one.

    :param pref_vector: ``b``, the preferred direction's weights; ``1/m`` each when None.
    :param lr: How far the weights move in one inner step.
    :param momentum: The share of the last inner step in the next one.
    :param n_iter: How many inner steps each call takes.
    :param lambda_: How strongly the update is drawn towards the preferred direction.
    :raises ConfigError: at the call, if ``pref_vector``, or the weights so far, are for another
        number of objectives.

    >>> first = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> second = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    >>> SDMGrad(lr=0.5, lambda_=0.0)(first @ second.T)
    tensor([0.2499, 0.7501])
    """

    needs: frozenset[Need] = frozenset({"cross-gramian"})
    independent_batches: ClassVar[tuple[int, ...]] = (2,)
    claims: ClassVar[Mapping[str, Any]] = {
        # Between opposite gradients rounding decides, and grows by lr with each step.
        "permutation_equivariant": False,
        "permutation_invariant": False,
        "scale": None,
    }
    Config = SDMGradConfig
    config: SDMGradConfig
    memory = ("weights",)
    paper = Paper(
        title="Direction-oriented Multi-objective Learning: Simple and Provable Stochastic "
        "Algorithms",
        authors="Peiyao Xiao, Hao Ban, Kaiyi Ji",
        venue="NeurIPS",
        year=2023,
        url="https://arxiv.org/abs/2305.18409",
    )

    weights: Tensor
    """``w`` ``[m]``; ``[0]`` before the first call."""

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """The weights after ``n_iter`` inner steps, with the preferences.

        :param gramian: ``J₁ J₂ᵀ``, which need not be symmetric.
        """
        m, settings = len(gramian), self.config
        wanted = settings.lambda_ * self.preferences(gramian)
        before = self.recalled("weights", gramian.new_full((m,), 1 / m))
        scaled, weights, velocity = _scaled(gramian), before, torch.zeros_like(before)
        for _ in range(settings.n_iter):
            velocity = settings.momentum * velocity + scaled @ (weights + wanted)
            weights = simplex_projection(weights - settings.lr * velocity)
        self.weights = torch.where(weights.isfinite().all(), weights, before)
        return (weights + wanted) / (1 + settings.lambda_)


def _scaled(gramian: Float[Tensor, "m m"]) -> Float[Tensor, "m m"]:
    """As if the gradients had the mean length one; zero stays zero."""
    largest = gramian.abs().max()
    shrunk = gramian / torch.where(largest > 0, largest, 1.0)  # so that no square is lost
    square = shrunk.diagonal().clamp(min=0.0).sqrt().mean().square()
    return shrunk / torch.where(square > 0, square, 1.0)
