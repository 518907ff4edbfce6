"""Pseudo-inverses of Gramians, with a tolerance relative to their own scale."""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jdframework.linalg.host import on_host
from jdframework.linalg.low_rank import range_of_dependent
from jdframework.linalg.unit_problem import Array

_SINGLE: Final = 24
"""The binary digits of single precision."""
_OF_SINGLE_ROWS: Final = 45
"""Those of a Gramian of single-precision rows: the last is twice their rounding, squared."""
_DOUBLE: Final = float(np.finfo(np.float64).eps)
_FEW: Final = 16
"""Up to so many rows all eigenvalues take no longer than what goes without them."""
_CLEARLY: Final = 10.0
"""The condition number is an estimate, which may be off by some factor below this."""


def pseudo_solve(
    gramian: Float[Tensor, "m m"], right: Float[Tensor, " m"], tolerance: float | None = None
) -> Float[Tensor, " m"]:
    """``G⁺ r``, solved in float64.

    :param gramian: Symmetric and positive semi-definite, ``[m, m]``.
    :param right: ``r`` ``[m]``.
    :param tolerance: Eigenvalues up to this share of the largest count as zero; by default ``m``
        times the precision of the Gramian's dtype.
    :return: In the dtype of ``right``; NaN where an input is not finite.

    >>> pseudo_solve(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([1.0, 1.0]))
    tensor([0.5000, 0.5000])
    """
    if tolerance is None:
        tolerance = len(gramian) * torch.finfo(gramian.dtype).eps
    solve = partial(pseudo_solution, tolerance=tolerance)
    return on_host(solve, gramian, right, shape=(len(right),)).to(right.dtype)


def pseudo_solution(matrix: Array, right: Array, tolerance: float) -> Array:
    """``G⁺ r`` of arrays, for solvers that are on the host already; one that is regular costs less.

    :param matrix: Symmetric and positive semi-definite ``[m, m]``, finite.
    :param right: ``r`` ``[m]``.
    :param tolerance: Eigenvalues up to this share of the largest count as zero.
    :return: ``[m]``.
    """
    if len(matrix) > _FEW:
        found = _without_eigenvalues(matrix, right, tolerance)
        if found is not None:
            return found
    values, vectors = np.linalg.eigh(matrix)
    kept = values > tolerance * max(values[-1], 0.0)
    basis = vectors[:, kept]
    return np.asarray(basis @ ((right @ basis) / values[kept]))


def _without_eigenvalues(matrix: Array, right: Array, tolerance: float) -> Array | None:
    """The same, where it is clear which eigenvalues are zero; else None."""
    from scipy.linalg.lapack import dpocon, dposv

    factor, solution, failed = dposv(matrix.T, right)
    size = np.abs(matrix).sum(axis=0).max()
    if not failed and dpocon(factor, size)[0] > _CLEARLY * tolerance:
        return np.asarray(solution)
    if matrix.diagonal().max() > 1.0:
        return None
    own = range_of_dependent(matrix, _CLEARLY * tolerance)
    return None if own is None else own.solved(right)


def carried_precision(gramian: Float[Tensor, "m m"]) -> float:
    """The relative rounding error that the entries carry, whatever the dtype they come in.

    A Gramian computed in single precision keeps its errors when it is widened. It is known by its
    entries, which all have the digits of single precision, in whatever range. One of integers is
    taken for that as well: gradients whose angle is below some 1e-3 then count as parallel. One
    that was computed in double precision, of rows in single, is known by its digits, too: see
    :func:`of_single_rows`.

    :param gramian: ``[m, m]``.

    >>> carried_precision(torch.tensor([[0.1]], dtype=torch.float64))
    2.220446049250313e-16
    >>> carried_precision(torch.tensor([[0.1]]).double())
    1.1920928955078125e-07
    >>> carried_precision(torch.tensor([[0.1]]).double() * 2.0**-200)
    1.1920928955078125e-07
    """
    if gramian.dtype != torch.float64:
        return torch.finfo(gramian.dtype).eps
    return precision_of(gramian.detach().cpu().numpy())  # the one wait for a device


def precision_of(array: Array) -> float:
    """:func:`carried_precision` of an array, for solvers that are on the host already.

    :param array: ``[m, m]``.
    """
    # Most Gramians of double precision show it on the diagonal, which takes less time.
    for digits in (_SINGLE, _OF_SINGLE_ROWS):
        if _has(digits, array.diagonal()) and _has(digits, array):
            return float(2.0 ** (1 - digits))
    return _DOUBLE


def rows_precision(precision: float) -> float:
    """The relative rounding error of the rows that a Gramian is of.

    :param precision: What its entries carry.
    """
    return float(torch.finfo(torch.float32 if precision > _DOUBLE else torch.float64).eps)


def of_single_rows(gramian: Float[Tensor, "m m"]) -> Float[Tensor, "m m"]:
    """A Gramian of rows in single precision, without digits that tell nothing but their rounding.

    Where rows are dependent, their rounding makes eigenvalues of its square, relative to the
    largest. Methods take what is that small for zero, as the digits tell them.

    :param gramian: Computed in float64.

    >>> carried_precision(of_single_rows(torch.tensor([[0.1]], dtype=torch.float64)))
    5.684341886080802e-14
    """
    mantissas, exponents = torch.frexp(gramian)
    return torch.ldexp(_rounded(mantissas, _OF_SINGLE_ROWS), exponents)


def _has(digits: int, values: Array) -> bool:
    mantissas = np.ldexp(np.frexp(values)[0], digits)
    return bool((np.rint(mantissas) == mantissas).all())


def _rounded(mantissas: Tensor, digits: int) -> Tensor:
    return (mantissas * 2.0**digits).round() * 2.0**-digits
