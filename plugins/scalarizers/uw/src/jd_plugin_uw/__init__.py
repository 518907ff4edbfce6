"""UW: each loss is divided by a learned variance."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from jdframework.bases import TrainableScalarizer
from jdframework.config import Paper

__all__ = ["UW"]


class UW(TrainableScalarizer):
    """Divides each loss by a learned uncertainty.

    .. math:: \\sum_i \\tfrac{1}{2} e^{-s_i} L_i + \\tfrac{1}{2} s_i

    ``s`` is the logarithm of the variance of each objective's noise (Kendall, Gal & Cipolla 2018,
    equation 7, in its numerically stable form). At the optimal ``s`` it is
    :math:`\\log L_i`, up to a constant: UW follows a scale-invariant loss with some lag, and
    diverges for a loss that reaches zero or less. It is half of ``imtl-l`` at ``-s``. Give
    ``parameters()`` to the optimizer, without weight decay.

    :param shape: The losses' shape, as an int or a tuple of ints; that of the first losses when
        None.
    :raises ValueError: at the call, if the losses have another shape.

    >>> import torch
    >>> UW()(torch.tensor([2.0, 4.0])).item()
    3.0
    """

    paper = Paper(
        title="Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and "
        "Semantics",
        authors="Alex Kendall, Yarin Gal, Roberto Cipolla",
        venue="CVPR",
        year=2018,
        url="https://arxiv.org/abs/1705.07115",
    )

    def forward(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """``½ Σ exp(-s) L + s``."""
        return 0.5 * ((-self.s).exp() * losses + self.s).sum()
