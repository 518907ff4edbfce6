"""Bases of weightings: a statistic of the Jacobian in, one weight per objective out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jdframework.bases.method import BaseMethod
from jdframework.errors import SolverError
from jdframework.protocols.names import Kind, Need

SOLVERS_FAIL_BY: Final = (
    SolverError,
    np.linalg.LinAlgError,
    torch.linalg.LinAlgError,  # type: ignore[attr-defined]  # torch documents it
)
"""What our solvers and LAPACK raise."""


class Weighting(BaseMethod, ABC):
    """Base of what maps a statistic of the Jacobian to weights.

    Subclass :class:`GramianWeighting` or :class:`JacobianWeighting`.
    """

    kind: ClassVar[Kind] = "weighting"

    def _weights(self, statistic: Tensor, working: torch.dtype, extra: dict[str, Tensor]) -> Tensor:
        """Runs ``forward`` in ``working`` precision, and gives the caller's dtype back."""
        try:
            with torch.no_grad():
                given = statistic.detach().to(working)
                weights = super().__call__(given, **extra)
        except SOLVERS_FAIL_BY as error:
            raise failure_of(self, statistic, error) from error
        m = statistic.shape[0]
        if not isinstance(weights, Tensor) or weights.shape != (m,):
            got = list(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
            raise TypeError(
                f"the weighting {self.name!r} must return a tensor of shape [{m}], "
                f"but returned {got}"
            )
        return weights.to(device=statistic.device, dtype=statistic.dtype)


class GramianWeighting(Weighting):
    """Base of a weighting that needs the Gramian ``G = J Jᵀ``, and no more.

    ``forward`` receives ``G`` in float64 (float32 on devices without it), detached, and may return
    weights on any device; the caller gets them in the Gramian's dtype, on its device.
    """

    needs: frozenset[Need] = frozenset({"gramian"})

    def __call__(self, gramian: Float[Tensor, "m m"], /, **extra: Tensor) -> Float[Tensor, " m"]:
        """The weights.

        :param gramian: Symmetric and positive semi-definite, ``[m, m]``, any floating dtype.
        :param extra: What else the method needs, by name: ``losses`` ``[m]``.
        :raises ValueError: if it is not a square matrix with at least one row, or not of floating
            dtype.
        """
        check_floating(self, gramian)
        if gramian.ndim != 2 or gramian.shape[0] != gramian.shape[1] or not len(gramian):
            raise ValueError(
                f"{self.name} needs a Gramian of shape [m, m] with m >= 1, "
                f"not {list(gramian.shape)}"
            )
        return self._weights(gramian, working_dtype(gramian.device), extra)

    @abstractmethod
    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """The method's mathematics, of ``gramian`` ``[m, m]``.

        One that needs the losses takes them as ``losses=None``.
        """


class JacobianWeighting(Weighting):
    """Base of a weighting that needs the rows of the Jacobian themselves.

    ``forward`` receives ``J`` detached, and half precision as float32.
    """

    needs: frozenset[Need] = frozenset({"jacobian"})

    def __call__(self, jacobian: Float[Tensor, "m n"], /, **extra: Tensor) -> Float[Tensor, " m"]:
        """The weights.

        :param jacobian: One row per objective, ``[m, n]``, any floating dtype.
        :param extra: What else the method needs, by name.
        :raises ValueError: if it is not a matrix with at least one row, or not of floating dtype.
        """
        check_jacobian(self, jacobian)
        return self._weights(jacobian, at_least_float32(jacobian.dtype), extra)

    @abstractmethod
    def forward(self, jacobian: Float[Tensor, "m n"], /) -> Float[Tensor, " m"]:
        """The method's mathematics, of ``jacobian`` ``[m, n]``."""


def check_jacobian(method: BaseMethod, jacobian: Tensor) -> None:
    """Refuses what is no matrix of floating dtype with at least one row.

    :raises ValueError: naming the method and the shape, or the dtype.
    """
    check_floating(method, jacobian)
    if jacobian.ndim != 2 or not len(jacobian):
        raise ValueError(
            f"{method.name} needs a Jacobian of shape [m, n] with m >= 1, "
            f"not {list(jacobian.shape)}"
        )


def check_floating(method: BaseMethod, given: Tensor) -> None:
    """Refuses integers, in whose dtype no weight can be given back, and complex numbers.

    :raises ValueError: naming the method and the dtype.
    """
    if not given.is_floating_point():
        dtype = str(given.dtype).removeprefix("torch.")
        raise ValueError(f"{method.name} needs real numbers of a floating dtype, not {dtype}")


def failure_of(method: BaseMethod, statistic: Tensor, error: Exception) -> SolverError:
    """What is raised in the place of a solver's error, which knows nothing of the method.

    :param method: What the solver was called for.
    :param statistic: The Gramian or the Jacobian that it was given.
    :param error: The solver's.
    """
    if isinstance(error, SolverError):
        named = str(error).startswith(method.name)
        return error if named else SolverError(f"{method.name}: {error}")
    try:
        condition = f"{float(np.linalg.cond(statistic.detach().cpu().double().numpy())):.1e}"
    except np.linalg.LinAlgError:
        condition = "unknown"
    return SolverError(
        f"{method.name}: {error} (m = {len(statistic)}, condition number {condition})"
    )


def working_dtype(device: torch.device) -> torch.dtype:
    """In what small problems are solved on ``device``: float64 where it exists."""
    return torch.float32 if device.type == "mps" else torch.float64


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """``dtype``, with half precision widened to float32."""
    return torch.promote_types(dtype, torch.float32)
