"""The geometric mean of the losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from jdframework.bases import Scalarizer
from jdframework.config import Paper

__all__ = ["GeometricMean"]


class GeometricMean(Scalarizer):
    """Takes the geometric mean of the losses.

    .. math:: \\exp\\Bigl(\\tfrac{1}{m} \\sum_i \\log L_i\\Bigr)

    The geometric loss strategy, GLS (Chennupati et al. 2019). Each loss is weighed by the mean
    over ``m`` times the loss, so that the scale of a loss does not matter.

    The logarithm is of ``L`` plus the smallest normal number, which changes no loss above 1e-30; a
    loss of zero is raised by that times the greatest loss, if that is above one, and so has a
    finite derivative, where other implementations give NaN (E19 of the ledger). As the true
    derivative is infinite there, it is very large, and beyond the range of float16. The product
    of the losses is never formed, so that many small ones do not underflow.

    :raises ValueError: at the call, if a loss is negative.

    >>> import torch
    >>> GeometricMean()(torch.tensor([2.0, 8.0]))
    tensor(4.)
    """

    claims: ClassVar[Mapping[str, Any]] = {"negative_losses": False}
    paper = Paper(
        title="MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for "
        "Multi-Task Learning",
        authors="Sumanth Chennupati, Ganesh Sistu, Senthil Yogamani, Samir A Rawashdeh",
        venue="CVPR Workshops",
        year=2019,
        url="https://arxiv.org/abs/1904.08492",
    )

    def forward(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """``exp(mean(log L))``."""
        lowest = losses.detach().min()
        if bool((lowest < 0) & lowest.isfinite()):
            raise ValueError(
                f"geometric-mean needs losses of at least zero, but one is {lowest.item():g}: "
                f"shift the losses, or choose another method"
            )
        tiny = torch.finfo(losses.dtype).tiny
        # In proportion to the greatest, as the mean over m times tiny may be beyond the range: the
        # gradient of a loss that is zero is zero as well, and infinity times that is NaN.
        instead = tiny * losses.detach().max().clamp(min=1.0)
        return (losses + torch.where(losses == 0, instead, tiny)).log().mean().exp()
