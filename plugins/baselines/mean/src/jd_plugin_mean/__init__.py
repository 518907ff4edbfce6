"""The mean: the same weight for every objective, the weights summing to one."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from jdframework.bases import GramianWeighting, Scalarizer
from jdframework.protocols.names import Need

__all__ = ["Mean", "MeanWeighting"]


class MeanWeighting(GramianWeighting):
    """Weights every objective by 1/m.

    .. math:: a = \\tfrac{1}{m} \\mathbf{1}

    As an update this is the gradient of the mean loss. It is ``1/m`` times that of ``sum``, so
    learning rates do not transfer between the two. The aggregator is differentiable in ``J``.

    >>> import torch
    >>> MeanWeighting()(torch.eye(4))
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    differentiable = True
    needs: frozenset[Need] = frozenset()

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """``1/m`` for each of the ``m`` objectives."""
        m = len(gramian)
        return gramian.new_full((m,), 1 / m)


class Mean(Scalarizer):
    """Takes the mean of the losses.

    .. math:: \\tfrac{1}{m} \\sum_i L_i

    The same step as the weighting ``mean``, for one ordinary backward pass.

    >>> import torch
    >>> Mean()(torch.tensor([1.0, 3.0]))
    tensor(2.)
    """

    fixed_weights: ClassVar[bool] = True

    def forward(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """The mean of all losses, whatever their shape."""
        return losses.mean()
