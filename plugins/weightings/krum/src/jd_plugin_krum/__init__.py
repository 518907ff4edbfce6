"""Krum: the mean of the gradients that are closest to their neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import GramianWeighting
from jdframework.config import Config, Paper
from jdframework.errors import ConfigError
from jdframework.linalg import carried_precision

__all__ = ["Krum", "KrumConfig"]


class KrumConfig(Config):
    """Settings of Krum."""

    n_byzantine: int = Field(
        ge=0,
        description="f: how many gradients may be arbitrary. Needs 2 f + 3 objectives, unless f "
        "is 0.",
        examples=[0],
    )
    n_selected: int = Field(
        1, ge=1, description="How many gradients are averaged; more than one is Multi-Krum."
    )
    score: Literal["squared", "distance"] = Field(
        "squared",
        description="What is summed over the neighbours: squared distances, as in the paper, or "
        "distances, as in torchjd.",
    )


class Krum(GramianWeighting):
    """Averages the gradients that are closest to their neighbours, so that outliers do not count.

    .. math::
        a_i = \\tfrac{1}{k} \\text{ if } s_i \\text{ is one of the } k \\text{ lowest, else } 0,
        \\qquad s_i = \\sum_{j \\in N_i} \\lVert g_i - g_j \\rVert^2

    where :math:`N_i` are the :math:`m - f - 2` nearest others (Blanchard et al. 2017). The
    distances are read off the Gramian. Of scores that are equal up to rounding the first
    objective's wins, as in the paper, so the order of the objectives can matter: with one
    neighbour, two gradients that are each other's nearest always tie.

    Libraries disagree on the score: torchjd sums the distances (``score="distance"``), blades
    their fourth powers, and byzfl counts one neighbour more. Each picks another gradient in some
    cases. torchjd also accepts any ``m >= f + 3``, where the paper proves nothing unless
    ``m > 2 f + 2``; here fewer are refused. Only with ``n_byzantine=0``, where there is nothing to
    prove, any number will do.

    A gradient that is not finite makes all weights NaN. The aggregator is differentiable in ``J``,
    the choice being constant but where scores are equal.

    :param n_byzantine: ``f``, how many gradients may be arbitrary.
    :param n_selected: ``k``, how many are averaged.
    :param score: ``"squared"`` or ``"distance"``.
    :raises ConfigError: at the call, if there are too few objectives.

    >>> import torch
    >>> jacobian = torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.8, 0.0], [1.1, 0.0], [-50.0, 9.0]])
    >>> Krum(n_byzantine=1, n_selected=2)(jacobian @ jacobian.T)
    tensor([0.5000, 0.0000, 0.0000, 0.5000, 0.0000])
    """

    differentiable = True
    Config = KrumConfig
    config: KrumConfig
    # Of equal scores the first objective's wins, as in the paper.
    claims: ClassVar[Mapping[str, Any]] = {
        "permutation_equivariant": False,
        "permutation_invariant": False,
    }
    paper = Paper(
        title="Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
        authors="Peva Blanchard, El Mahdi El Mhamdi, Rachid Guerraoui, Julien Stainer",
        venue="NeurIPS",
        year=2017,
        url="https://arxiv.org/abs/1703.02757",
    )

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """``1/k`` for each of the ``k`` selected gradients, zero for the others."""
        self._check_enough(len(gramian))
        scores, doubts = self._scores(gramian)
        ranking = _ranks(scores, doubts).argsort(stable=True)
        weights = torch.zeros_like(scores)
        weights[ranking[: self.config.n_selected]] = 1 / self.config.n_selected
        return torch.where(torch.isfinite(gramian).all(), weights, torch.nan)

    def _scores(self, gramian: Tensor) -> tuple[Tensor, Tensor]:
        """The scores, and by how much rounding may have changed each."""
        neighbours = max(len(gramian) - self.config.n_byzantine - 2, 0)
        terms, doubts = _squared_distances(gramian)
        # Each row's own distance, zero, is never above another's.
        terms, order = terms.sort(dim=1)
        doubts = doubts.gather(1, order)
        if self.config.score == "distance":
            terms = terms.sqrt()
            doubts = torch.where(doubts > 0, doubts / (terms + doubts.sqrt()), 0.0)
        nearest = slice(1, 1 + neighbours)
        return terms[:, nearest].sum(dim=1), doubts[:, nearest].sum(dim=1)

    def _check_enough(self, m: int) -> None:
        f, k = self.config.n_byzantine, self.config.n_selected
        if f > 0 and m < 2 * f + 3:
            raise ConfigError(
                f"krum: n_byzantine = {f} needs at least 2 * {f} + 3 = {2 * f + 3} objectives, "
                f"but there are {m}; take a smaller n_byzantine"
            )
        if m < k:
            raise ConfigError(
                f"krum: n_selected = {k}, but there are only {m} objectives to select from"
            )


def _squared_distances(gramian: Tensor) -> tuple[Tensor, Tensor]:
    """``‖g_i - g_j‖²``, and by how much rounding may have changed each; ``[m, m]`` both."""
    squares = gramian.diagonal()
    sums = squares + squares.unsqueeze(1)
    distances = (sums - gramian - gramian.T).clamp(min=0.0).fill_diagonal_(0.0)
    return distances, 4 * carried_precision(gramian) * sums


def _ranks(scores: Tensor, doubts: Tensor) -> Tensor:
    """0 for the lowest scores, then 1, …; scores that rounding may have parted share a rank."""
    ordered, order = scores.sort()
    gaps = ordered.diff() > doubts[order][1:] + doubts[order][:-1]
    ranks = torch.zeros_like(order)
    ranks[order[1:]] = gaps.cumsum(0)
    return ranks
