"""UPGrad: every gradient is made harmless to the others, then they are averaged."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from jdframework.bases import DualConeWeighting
from jdframework.config import Paper

__all__ = ["UPGrad"]


class UPGrad(DualConeWeighting):
    """Projects each gradient onto the dual cone of all of them, then averages the projections.

    .. math::
        a = \\sum_i \\operatorname*{argmin}_{v \\ge b_i e_i} v^\\top G v

    No objective's inner product with the update is negative (Quinton & Rey 2024, Definition 4 and
    Proposition 1). The problems are solved to the last digits on the row-normalised Gramian, so
    the guarantee holds for gradients of any norm, and for norms that differ by a factor of 1e6.
    torchjd adds 1e-4 of the trace to the diagonal first, which loses the small gradients, and
    takes the mean as soon as the Jacobian's norm is below 0.01; ``reg_eps=1e-4, norm_eps=1e-4``
    gives its numbers.

    :param pref_vector: ``b``, one number per objective; ``1/m`` each when None.
    :param norm_eps: A Gramian whose trace is smaller counts as zero.
    :param reg_eps: Share of the trace that is added to the diagonal.
    :param solver: ``"exact"``, or any solver that qpsolvers finds installed.
    :raises ConfigError: at the call, if ``pref_vector`` has another length than the Gramian.
    :raises SolverError: if the problem cannot be solved to the promised precision.

    >>> import torch
    >>> UPGrad()(torch.tensor([[1.0, -1.0], [-1.0, 4.0]]))
    tensor([1.0000, 0.6250])
    """

    paper = Paper(
        title="Jacobian Descent for Multi-Objective Optimization",
        authors="Pierre Quinton, Valérian Rey",
        venue="arXiv",
        year=2024,
        url="https://arxiv.org/abs/2406.16232",
    )

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """The weights whose combination is the sum of the projected gradients."""
        return self.projected(gramian, self.preferences(gramian).diag()).sum(0)
