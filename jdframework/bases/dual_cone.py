"""Base of weightings that project onto the dual cone of the gradients."""

from __future__ import annotations

from abc import ABC
from typing import Any, ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases.preference import PreferenceConfig, Preferring
from jdframework.bases.weighting import GramianWeighting
from jdframework.config import Solver
from jdframework.linalg import project_on_dual_cone


class DualConeConfig(PreferenceConfig):
    """Settings of a weighting that projects onto the dual cone."""

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
    solver: Solver = "exact"
    """What solves the projections."""


class DualConeWeighting(Preferring, GramianWeighting, ABC):
    """Base of a weighting that makes combinations of gradients harmless by projecting them.

    The dual cone holds the directions whose inner product with no gradient is negative.
    """

    Config: ClassVar[type[Any]] = DualConeConfig

    def projected(
        self, gramian: Float[Tensor, "m m"], vectors: Float[Tensor, "k m"]
    ) -> Float[Tensor, "k m"]:
        """For each row ``u``, the weights ``v`` of the projection of ``Jᵀu`` on the dual cone.

        :param gramian: ``G`` ``[m, m]``.
        :param vectors: One ``u`` a row, ``[k, m]``.
        :raises SolverError: if the problem cannot be solved to the promised precision.
        """
        return project_on_dual_cone(self._conditioned(gramian), vectors, solver=self.config.solver)

    def _conditioned(self, gramian: Tensor) -> Tensor:
        if self.config.norm_eps == 0.0 == self.config.reg_eps:
            return gramian
        trace = gramian.trace()
        conditioned: Tensor = gramian * (trace >= self.config.norm_eps)
        conditioned.diagonal().add_(self.config.reg_eps * trace)
        return conditioned
