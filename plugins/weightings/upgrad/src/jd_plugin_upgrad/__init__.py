"""UPGrad: every gradient is made harmless to the others, then they are averaged."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import GramianWeighting
from jdframework.config import Config, Paper, Vector
from jdframework.linalg import project_on_dual_cone

__all__ = ["UPGrad", "UPGradConfig"]


class UPGradConfig(Config):
    """Settings of UPGrad."""

    pref_vector: Vector | None = Field(
        None,
        description="One preference per objective, by which the projected gradients are summed; "
        "1/m each when None.",
    )
    norm_eps: float = Field(
        0.0,
        ge=0.0,
        description="A Gramian whose trace is smaller counts as zero. 0 never does that; "
        "torchjd uses 1e-4.",
    )
    reg_eps: float = Field(
        0.0,
        ge=0.0,
        description="This share of the trace is added to the Gramian's diagonal. 0 solves the "
        "problem itself; torchjd uses 1e-4.",
    )
    solver: str = Field(
        "exact",
        description="'exact' is ours; or the name of any solver that qpsolvers finds installed.",
    )


class UPGrad(GramianWeighting):
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

    Config = UPGradConfig
    config: UPGradConfig
    paper = Paper(
        title="Jacobian Descent for Multi-Objective Optimization",
        authors="Pierre Quinton, Valérian Rey",
        venue="arXiv",
        year=2024,
        url="https://arxiv.org/abs/2406.16232",
    )

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_constant("pref_vector", self.config.pref_vector)

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """The weights whose combination is the mean of the projected gradients."""
        preferences = self._preferences(gramian)
        projected = project_on_dual_cone(
            self._conditioned(gramian), preferences.diag(), solver=self.config.solver
        )
        return projected.sum(0)

    def _preferences(self, gramian: Tensor) -> Tensor:
        m = len(gramian)
        if self.config.pref_vector is None:
            return gramian.new_full((m,), 1 / m)
        return self.constant("pref_vector", m, gramian)

    def _conditioned(self, gramian: Tensor) -> Tensor:
        if self.config.norm_eps == 0.0 == self.config.reg_eps:
            return gramian
        trace = gramian.trace()
        conditioned = gramian * (trace >= self.config.norm_eps)
        conditioned.diagonal().add_(self.config.reg_eps * trace)
        return conditioned
