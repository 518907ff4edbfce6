"""DualProj: the mean gradient, made harmless to every objective."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from jdframework.bases import DualConeWeighting
from jdframework.config import Paper

__all__ = ["DualProj"]


class DualProj(DualConeWeighting):
    """Projects the mean of the gradients onto the dual cone of all of them.

    .. math::
        a = \\operatorname*{argmin}_{v \\ge b} v^\\top G v

    The update is the direction closest to :math:`J^\\top b` whose inner product with no gradient
    is negative (Lopez-Paz & Ranzato 2017, equation 11, with every objective in the place of the
    memories and no margin; GEM itself constrains the memories' gradients only). The problem is
    solved to the last digits on the row-normalised Gramian, so the guarantee holds for gradients
    of any norm, and for norms that differ by a factor of 1e6. torchjd adds 1e-4 of the trace to
    the diagonal first, which loses the small gradients, and takes the mean as soon as the
    Jacobian's norm is below 0.01; ``reg_eps=1e-4, norm_eps=1e-4`` gives its numbers.

    :param pref_vector: ``b``, one number per objective; ``1/m`` each when None.
    :param norm_eps: A Gramian whose trace is smaller counts as zero.
    :param reg_eps: Share of the trace that is added to the diagonal.
    :param solver: ``"exact"``, or any solver that qpsolvers finds installed.
    :raises ConfigError: at the call, if ``pref_vector`` has another length than the Gramian.
    :raises SolverError: if the problem cannot be solved to the promised precision.

    >>> import torch
    >>> DualProj()(torch.tensor([[1.0, -1.5], [-1.5, 4.0]]))
    tensor([0.7500, 0.5000])
    """

    paper = Paper(
        title="Gradient Episodic Memory for Continual Learning",
        authors="David Lopez-Paz, Marc'Aurelio Ranzato",
        venue="NeurIPS",
        year=2017,
        url="https://arxiv.org/abs/1706.08840",
    )

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """The weights whose combination is the projection of the preferred one."""
        return self.projected(gramian, self.preferences(gramian).unsqueeze(0)).squeeze(0)
