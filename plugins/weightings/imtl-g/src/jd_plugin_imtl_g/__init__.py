"""IMTL-G: the direction whose projections onto all gradients are equal."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from jdframework.bases import GramianWeighting
from jdframework.config import Paper
from jdframework.linalg import impartial_weights

__all__ = ["IMTLG"]


class IMTLG(GramianWeighting):
    """Makes the update's projections onto all gradients equal.

    .. math::
        a = \\frac{G^+ n}{\\mathbf{1}^\\top G^+ n}, \\qquad n_i = \\lVert g_i \\rVert

    (Liu et al. 2021, section 3.1, extended to dependent gradients by the pseudo-inverse.) It is
    computed as :math:`a_i \\propto (C^+ \\mathbf{1})_i / n_i` with ``C`` the Gramian of the unit
    gradients. That is the same for independent gradients, and also among dependent ones it loses no
    small gradient; an implementation that inverts ``G`` itself in float32 drops one below about
    5e-4 of the largest. A zero gradient gets weight zero. Weights can be negative, and often are
    with more than a few objectives. Where the unit gradients balance out (their sum is zero), or
    the weights sum to zero, no weights with sum one exist: they are then all zero.

    >>> import torch
    >>> IMTLG()(torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    tensor([0.6667, 0.3333])
    """

    paper = Paper(
        title="Towards Impartial Multi-task Learning",
        authors="Liyang Liu, Yi Li, Zhanghui Kuang, Jing-Hao Xue, Yimin Chen, Wenming Yang, "
        "Qingmin Liao, Wayne Zhang",
        venue="ICLR",
        year=2021,
        url="https://openreview.net/forum?id=IMPnRXEWpvr",
    )

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """The weights, with sum one (or all zero)."""
        return impartial_weights(gramian)
