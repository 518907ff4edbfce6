"""The sum: weight one for every objective."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from jdframework.bases import GramianWeighting, Scalarizer
from jdframework.protocols.names import Need

__all__ = ["Sum", "SumWeighting"]


class SumWeighting(GramianWeighting):
    """Weights every objective by one.

    .. math:: a = \\mathbf{1}

    As an update this is the gradient of the summed losses, what "equal weighting" (EW) means in
    LibMTL. It is ``m`` times that of ``mean``, so learning rates do not transfer between the two.
    The aggregator is differentiable in ``J``.

    >>> import torch
    >>> SumWeighting()(torch.eye(3))
    tensor([1., 1., 1.])
    """

    differentiable = True
    needs: frozenset[Need] = frozenset()

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """One for each of the ``m`` objectives."""
        return gramian.new_ones(len(gramian))


class Sum(Scalarizer):
    """Takes the sum of the losses.

    .. math:: \\sum_i L_i

    The same step as the weighting ``sum``, for one ordinary backward pass.

    >>> import torch
    >>> Sum()(torch.tensor([1.0, 3.0]))
    tensor(4.)
    """

    fixed_weights: ClassVar[bool] = True

    def forward(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """The sum of all losses, whatever their shape."""
        return losses.sum()
