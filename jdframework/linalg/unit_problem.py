"""A non-negative quadratic program in units in which one tolerance fits every row and column."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]
Mask: TypeAlias = NDArray[np.bool_]

_EPSILON: Final = float(np.finfo(np.float64).eps)
_TINY: Final = float(np.finfo(np.float64).tiny)


def on_positive_rows(solve: Callable[[Array, Array], Array], matrix: Array, linear: Array) -> Array:
    """``solve(matrix, linear)`` on the rows whose diagonal entry is positive; the others are zero.

    :param solve: Gives ``[m, k]``.
    :param matrix: ``[m, m]``.
    :param linear: ``[m, k]``.
    """
    present = matrix.diagonal() > 0.0
    if present.all():
        return solve(matrix, linear)
    solution = np.zeros_like(linear)
    if present.any():
        solution[present] = solve(matrix[np.ix_(present, present)], linear[present])
    return solution


def row_normalised(matrix: Array, linear: Array) -> tuple[Array, Array, Array]:
    """The problem with a unit diagonal and columns of size one, and the factor back.

    :param matrix: ``[m, m]``; a row whose diagonal entry is zero becomes zero.
    :param linear: ``[m, k]``.
    :return: ``[m, m]``, ``[m, k]``, and the ``[m, k]`` by which its solution is multiplied.
    """
    scale = np.sqrt(np.maximum(matrix.diagonal(), 0.0))
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0.0)
    column = inverse[:, None]
    scaled = linear * column
    size = np.abs(scaled).max(axis=0, initial=_TINY)
    return matrix * inverse * column, scaled / size, size * column


def unit_rows(gramian: Array) -> tuple[Array, Array]:
    """Cosines and norms, like :func:`~jdframework.linalg.normalised`.

    :param gramian: ``[m, m]``, exactly symmetric.
    :return: The Gramian of the unit rows ``[m, m]``, and the rows' norms ``[m]``.
    """
    norms = np.sqrt(np.maximum(gramian.diagonal(), 0.0))
    present = norms > 0.0
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=present)
    cosines = gramian * inverse
    cosines *= inverse[:, None]  # in place: fresh memory of this size costs more than the product
    np.minimum(np.maximum(cosines, -1.0, out=cosines), 1.0, out=cosines)
    cosines.flat[:: len(norms) + 1] = present
    return cosines, norms


def ridge(m: int) -> float:
    """What makes an ``[m, m]`` matrix of unit diagonal definite if only rounding spoils that."""
    return 2 * m * _EPSILON


def kkt_residual(matrix: Array, linear: Array, solution: Array) -> Array:
    """How far each column is from optimal: the largest violation of any KKT condition.

    :param matrix: ``[m, m]`` with a unit diagonal, so that the residual is relative.
    :param linear: ``[m, k]``.
    :param solution: ``[m, k]``.
    :return: ``[k]``.
    """
    return violation(solution, matrix @ solution + linear)


def violation(solution: Array, slope: Array) -> Array:
    """The KKT residual of a solution at which the objective has this slope.

    :param solution: ``[m, k]``.
    :param slope: ``[m, k]``.
    :return: ``[k]``.
    """
    unmet = np.where(solution > 0.0, np.abs(slope), -slope)
    return np.asarray(np.maximum(unmet, -solution).max(axis=0, initial=0.0))


def rounding(solution: Array) -> Array:
    """The KKT residual that rounding the terms of each column explains, ``[k]``.

    :param solution: ``[m, k]``, of a problem with unit diagonal.
    """
    return np.asarray(_EPSILON * np.abs(solution).sum(axis=0))
