"""Random loss weighting: new weights at every step, from a softmax of normal numbers."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from jdframework.bases import GramianWeighting, Randomised, Scalarizer
from jdframework.config import Paper
from jdframework.protocols.names import Need

__all__ = ["Random", "RandomWeighting"]

_PAPER = Paper(
    title="Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning",
    authors="Baijiong Lin, Feiyang Ye, Yu Zhang, Ivor W. Tsang",
    venue="TMLR",
    year=2022,
    url="https://arxiv.org/abs/2111.10603",
)


class RandomWeighting(Randomised, GramianWeighting):
    """Draws new random weights at every call, positive and summing to one.

    .. math:: a = \\operatorname{softmax}(z), \\qquad z \\sim \\mathcal{N}(0, I_m)

    (Algorithm 2 of the paper.) They sum to one as in the authors' code; some ports let them sum
    to ``m``. The aggregator is differentiable in ``J``.

    :param seed: Seed of the method's own generator, whose state is saved with ``state_dict()``.
        None draws from torch's global generator.

    >>> import torch
    >>> float(RandomWeighting(seed=0)(torch.eye(3, dtype=torch.float64)).sum())
    1.0
    """

    paper = _PAPER
    differentiable = True
    needs: frozenset[Need] = frozenset()

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """``m`` positive numbers that sum to one."""
        return self.normal(len(gramian), like=gramian).softmax(0)


class Random(Randomised, Scalarizer):
    """Weights the losses by new random numbers at every call.

    .. math:: \\operatorname{softmax}(z) \\cdot L, \\qquad z \\sim \\mathcal{N}(0, I_m)

    (Algorithm 1 of the paper.) The same step as the weighting ``random``, for one ordinary
    backward pass.

    :param seed: Seed of the method's own generator, whose state is saved with ``state_dict()``.
        None draws from torch's global generator.

    >>> import torch
    >>> float(Random(seed=0)(torch.ones(3, dtype=torch.float64)))
    1.0
    """

    paper = _PAPER

    def forward(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """The weighted mean of the losses."""
        weights = self.normal(losses.numel(), like=losses).softmax(0)
        return weights @ losses.flatten()
