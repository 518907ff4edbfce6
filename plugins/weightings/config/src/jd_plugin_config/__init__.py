"""ConFIG: the direction with the same cosine to every gradient."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jdframework.bases import GramianWeighting, Preferring
from jdframework.config import Paper
from jdframework.linalg import carried_precision, on_host, rows_precision
from jdframework.linalg.spectral import pseudo_solution
from jdframework.linalg.unit_problem import Array, unit_rows

__all__ = ["ConFIG"]


class ConFIG(Preferring, GramianWeighting):
    """Takes the direction with the same cosine to every gradient, as long as all of them along it.

    .. math::
        d = \\Big(\\sum_i g_i \\cdot \\hat u\\Big)\\, \\hat u, \\qquad
        \\hat u = \\frac{u}{\\lVert u \\rVert}, \\qquad u = U^+ b

    with the unit gradients as the rows of :math:`U` (Liu, Chu & Thuerey 2025, equations 2 and 3).
    The update lies in the span of the gradients, so that it is a weighting:
    :math:`a_i \\propto (C^+ b)_i / n_i` with :math:`C = U U^\\top` and the norms :math:`n_i`.
    Other implementations decompose the whole Jacobian for the same numbers. With ``b`` constant,
    it is the direction of IMTL-G with another length, and where IMTL-G's weights sum to less than
    zero, with the other sign.

    Independent gradients all get the promised cosines, in proportion to ``b``; dependent ones in
    the sense of least squares, and some losses may then increase. A zero gradient gets weight zero.
    Where even the least-squares direction is zero, or the gradients cancel along it, all weights
    are zero.

    :param pref_vector: ``b``, one number per objective, of which only the ratios matter; all the
        same when None.
    :raises ConfigError: at the call, if ``pref_vector`` has another length than the Gramian.

    >>> import torch
    >>> ConFIG()(torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    tensor([1.5000, 0.7500])
    """

    paper = Paper(
        title="ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks",
        authors="Qiang Liu, Mengyu Chu, Nils Thuerey",
        venue="ICLR",
        year=2025,
        url="https://arxiv.org/abs/2408.11104",
    )

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """The weights of the gradients in the update."""
        return on_host(_solved, gramian, self.preferences(gramian), shape=(len(gramian),))


def _solved(gramian: Array, preferences: Array) -> Array:
    cosines, norms = unit_rows(gramian)
    present = norms > 0.0
    if not present.any():
        return np.zeros_like(norms)
    wanted = np.where(present, preferences, 0.0)
    precision = carried_precision(torch.from_numpy(gramian))
    tolerance, noise = len(gramian) * precision, len(gramian) * rows_precision(precision)
    mixture = pseudo_solution(cosines, wanted, tolerance)
    reached = cosines @ mixture
    longest = norms.max()
    along = norms / longest * reached
    # A direction, or a length, that is zero but for rounding would be a random update.
    rounding = 10 * noise * float(np.linalg.norm(wanted))
    terms = 10 * noise * np.abs(along).sum() + rounding * (norms / longest).sum()
    if np.linalg.norm(reached) <= rounding or abs(along.sum()) <= terms:
        return np.zeros_like(norms)
    length = along.sum() / (mixture @ reached)
    return np.asarray(
        mixture * length * np.divide(longest, norms, out=np.zeros_like(norms), where=present)
    )
