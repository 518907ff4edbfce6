"""IMTL-L: learned scales that bring all losses to the same size."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from jdframework.bases import TrainableScalarizer
from jdframework.config import Paper

__all__ = ["IMTLL"]


class IMTLL(TrainableScalarizer):
    """Scales each loss by a learned factor, so that all become equally large.

    .. math:: \\sum_i e^{s_i} L_i - s_i

    (Liu et al. 2021, section 3.2.) At the optimal ``s`` every scaled loss is one. It is twice
    ``uw`` at ``-s``. Losses may be negative, but then no finite ``s`` is optimal. Give
    ``parameters()`` to the optimizer, without weight decay. LibMTL offers it only together with
    ``imtl-g``.

    :param shape: The losses' shape, as an int or a tuple of ints; that of the first losses when
        None.
    :raises ValueError: at the call, if the losses have another shape.

    >>> import torch
    >>> IMTLL()(torch.tensor([2.0, 4.0])).item()
    6.0
    """

    paper = Paper(
        title="Towards Impartial Multi-task Learning",
        authors="Liyang Liu, Yi Li, Zhanghui Kuang, Jing-Hao Xue, Yimin Chen, Wenming Yang, "
        "Qingmin Liao, Wayne Zhang",
        venue="ICLR",
        year=2021,
        url="https://openreview.net/forum?id=IMPnRXEWpvr",
    )

    def forward(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """``Σ exp(s) L - s``."""
        return (self.s.exp() * losses - self.s).sum()
