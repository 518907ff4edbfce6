"""Base of aggregators, and the one that makes an aggregator of any weighting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor

from jdframework import linalg
from jdframework.bases.method import BaseMethod
from jdframework.bases.weighting import (
    SOLVERS_FAIL_BY,
    at_least_float32,
    check_jacobian,
    failure_of,
    working_dtype,
)
from jdframework.protocols import Weighting
from jdframework.protocols.names import Kind, Need

_SMALL: Final = 2**18
"""Up to so many entries of a Jacobian, its Gramian in double precision takes no noticeable time."""


class Aggregator(BaseMethod, ABC):
    """Base of what maps the Jacobian to one direction and is no weighted sum of its rows.

    ``forward`` receives ``J`` detached, unless the class says that it is ``differentiable``, and
    half precision as float32.
    """

    kind: ClassVar[Kind] = "aggregator"
    needs: frozenset[Need] = frozenset({"jacobian"})
    column_wise: ClassVar[bool] = False
    """Whether each entry of the direction depends on its own column of ``J`` alone.

    An engine may then give the columns in several calls a step, in their order, and join what it
    gets. So nothing may be kept from one call to the next but the generator, from which a column
    must draw the same numbers whether the columns before it come in the same call or not.
    """

    def __call__(self, jacobian: Float[Tensor, "m n"], /, **extra: Tensor) -> Float[Tensor, " n"]:
        """The direction; without a graph, unless it is ``differentiable`` in ``jacobian``.

        :param jacobian: One row per objective, ``[m, n]``, any floating dtype.
        :param extra: What else the method needs, by name: ``losses`` ``[m]``.
        :raises ValueError: if it is not a matrix with at least one row, or not of floating dtype.
        """
        check_jacobian(self, jacobian)
        keeps_graph = self.differentiable and torch.is_grad_enabled()
        try:
            with torch.set_grad_enabled(keeps_graph):
                given = jacobian if keeps_graph else jacobian.detach()
                given = given.to(at_least_float32(jacobian.dtype))
                direction = super().__call__(given, **extra)
        except SOLVERS_FAIL_BY as error:
            raise failure_of(self, jacobian, error) from error
        if not isinstance(direction, Tensor) or direction.shape != jacobian.shape[1:]:
            got = list(direction.shape) if isinstance(direction, Tensor) else type(direction)
            raise TypeError(
                f"the aggregator {self.name!r} must return a tensor of shape "
                f"[{jacobian.shape[1]}], but returned {got}"
            )
        return direction.to(device=jacobian.device, dtype=jacobian.dtype)

    @abstractmethod
    def forward(self, jacobian: Float[Tensor, "m n"], /) -> Float[Tensor, " n"]:
        """The method's mathematics, of ``jacobian`` ``[m, n]``.

        One that needs the losses takes them as ``losses=None``.
        """


class WeightedSum(Aggregator):
    """``Jᵀw``: the rows of the Jacobian, weighted by a weighting.

    It is differentiable in ``J``, with ``w`` as a constant, only where that is the whole
    derivative: if the weighting's own class says so, for one that derives from it may give other
    weights.

    :param weighting: What gives ``w``.
    """

    is_weighted_sum: ClassVar[bool] = True
    """Looked for in this class alone: one that derives from it may do something else."""

    def __init__(self, weighting: Weighting) -> None:
        super().__init__()
        self.weighting = weighting
        self.config = weighting.config
        self.name = weighting.name
        self.needs = weighting.needs
        itself = "is_weighted_sum" in vars(type(self))
        self.differentiable = itself and bool(vars(type(weighting)).get("differentiable"))
        for ability in ("reset", "after_update", "end_epoch"):
            if hasattr(weighting, ability):
                setattr(self, ability, getattr(weighting, ability))

    def extra_repr(self) -> str:
        """Nothing: the weighting prints its own settings."""
        return ""

    def forward(self, jacobian: Float[Tensor, "m n"], /, **extra: Tensor) -> Float[Tensor, " n"]:
        """``Jᵀw``."""
        weights = self.weighting(self._statistic(jacobian.detach()), **extra)
        return linalg.weighted_sum([jacobian], weights)[0]

    def _statistic(self, jacobian: Tensor) -> Any:
        if "jacobian" in self.needs:
            return jacobian
        if self.needs.isdisjoint({"gramian", "cross-gramian"}):
            return jacobian.new_zeros((len(jacobian), len(jacobian)))  # only its size is looked at
        # Beside what a method makes of close rows, single precision's rounding is not small.
        small = jacobian.numel() <= _SMALL and working_dtype(jacobian.device) == torch.float64
        if not small or jacobian.dtype == torch.float64:
            return linalg.gramian([jacobian])
        return linalg.of_single_rows(linalg.gramian([jacobian.double()]))
