"""The kernel of the kernels: ``min ½ yᵀHy + qᵀy`` over ``y >= 0``, many ``q`` at once.

The dual cone's projections and the min-norm point are both this problem. Small ones are solved
column by column by Lawson and Hanson's algorithm (1974, chapter 23), large ones by block principal
pivoting on all columns at once. Each does what the other leaves, and no column is believed: its KKT
residual decides. (SciPy's ``nnls`` is quick, but some releases return a wrong point now and then,
scipy issue 25389.)
"""

from __future__ import annotations

from typing import Final

import numpy as np

from jdframework.errors import SolverError
from jdframework.linalg.interior import balanced_solution, interior_solution
from jdframework.linalg.low_rank import low_rank_factor, semidefinite
from jdframework.linalg.pair import pair_solution
from jdframework.linalg.pivoting import pivoted
from jdframework.linalg.spectral import precision_of
from jdframework.linalg.unit_problem import (
    Array,
    Indices,
    kkt_residual,
    on_positive_rows,
    ridge,
    rounding,
    row_normalised,
)

_SMALL: Final = 32
"""Up to this size, the columns one by one are faster than all of them at once."""
_LARGE: Final = 512
"""Above it, an interior-point method takes less time than active sets for one column."""
_DOUBLE: Final = float(np.finfo(np.float64).eps)
"""Of rows in single precision, the large weights of a balance would show the rounding."""
_AIM: Final = 1e-12
"""The KKT residual, beyond rounding, above which a column is solved again."""
_ROUNDS: Final = 8
"""How often. Each round solves the problem with a ridge around the last round's solution (the
proximal point method), which removes the ridge's trace and ends at the problem without it."""
_PATIENCE: Final = 10
"""How many single exchanges a row are tried in the end."""
_ACCEPTED: Final = 1e-9
"""The largest KKT residual, beyond rounding, that is handed back."""


def nonnegative_qp(matrix: Array, linear: Array) -> Array:
    """``argmin ½ yᵀHy + qᵀy`` over ``y >= 0`` for each column ``q`` of ``linear``.

    :param matrix: ``H`` ``[m, m]``, symmetric and positive semi-definite. Of one that rounding has
        made indefinite, the positive semi-definite part is taken.
    :param linear: ``[m, k]``, one problem a column, each bounded below.
    :return: ``[m, k]``. Where ``H`` is singular, one of the minimisers.
    :raises SolverError: if a column's KKT residual, relative to the row-normalised problem, stays
        above 1e-9 and above what rounding explains.

    >>> nonnegative_qp(np.eye(2), np.array([[-3.0], [1.0]]))
    array([[3.],
           [0.]])
    """
    return on_positive_rows(_solve, matrix, linear)


def _solve(matrix: Array, linear: Array) -> Array:
    if len(matrix) == 2:
        found = pair_solution(matrix, linear)
        if found is not None:
            return found
    unit, scaled, undo = row_normalised(matrix, linear)
    unit, scaled, factor = semidefinite(unit, scaled)
    balanced = None
    if len(matrix) > _LARGE and linear.shape[1] > 1 and precision_of(matrix) <= _DOUBLE:
        balanced = balanced_solution(unit, scaled)
    solution, residual = _solve_unit(unit, scaled, factor, balanced)
    if residual.max(initial=0.0) > _ACCEPTED:
        _check(unit, solution, residual)
    return np.asarray(solution * undo)


def _solve_unit(
    unit: Array, linear: Array, factor: Array, first: Array | None = None
) -> tuple[Array, Array]:
    """The solution and its KKT residual.

    :param first: A first solution, if there is one.
    """
    m, k = linear.shape
    thin = low_rank_factor(unit) if _SMALL < m <= _LARGE and k == 1 else None
    if first is not None:
        solution = first
    elif m > _SMALL and k > 1:
        solution = pivoted(unit, linear)
    elif m > _LARGE:
        solution = interior_solution(unit, linear)
    elif thin is not None and len(thin) < m:
        solution = _of_dependent(thin, linear)
    else:
        solution = _lawson_hanson(factor, linear)
    residual = kkt_residual(unit, linear, solution)
    if (residual <= _AIM).all():
        return solution, residual
    solution[:, np.isnan(residual)] = 0.0
    residual = kkt_residual(unit, linear, solution)
    if _SMALL < m <= _LARGE and k > 1:
        thin = low_rank_factor(unit)

    def improve(columns: Indices, found: Array) -> None:
        """Takes over what is better."""
        reached = kkt_residual(unit, linear[:, columns], found)
        better = reached < residual[columns]
        columns = columns[better]
        solution[:, columns], residual[columns] = found[:, better], reached[better]

    if m > _LARGE:
        left = np.flatnonzero(residual > _AIM + rounding(solution))
        improve(left, interior_solution(unit, linear[:, left]))
    elif thin is not None and len(thin) < m:  # each column takes less time, without any ridge
        left = np.flatnonzero(residual > _AIM)
        improve(left, _of_dependent(thin, linear[:, left]))
    for _ in range(_ROUNDS):
        left = np.flatnonzero(residual > _AIM + rounding(solution))
        if not left.size:
            break
        right_side = linear[:, left] - ridge(m) * solution[:, left]
        improve(left, _lawson_hanson(factor, right_side))
    left = np.flatnonzero(residual > _ACCEPTED)
    if left.size:
        improve(left, pivoted(unit, linear[:, left], patience=_PATIENCE * m))
    return solution, residual


def _check(unit: Array, solution: Array, residual: Array) -> None:
    worst = float((residual - 2 * len(unit) * rounding(solution)).max())
    if worst > _ACCEPTED:
        raise SolverError(
            f"a non-negative quadratic program was not solved: its KKT residual is {worst:.1e} "
            f"(m = {len(unit)}, condition number {np.linalg.cond(unit):.1e})"
        )


def _lawson_hanson(factor: Array, linear: Array) -> Array:
    """Column by column, of the matrix whose factor this is; zero where it does not end."""
    from scipy.linalg.blas import dtrsv  # one at a time: for several, there are threads

    upper = np.ascontiguousarray(factor.T)
    solution = np.empty_like(linear)
    for column, right in enumerate(-linear.T):
        solution[:, column] = least_squares(upper, dtrsv(factor.T, right, trans=1))
    return solution


def _of_dependent(thin: Array, linear: Array) -> Array:
    """The same of a matrix ``FᵀF``, by a factor with as many rows as it has rank.

    :param thin: ``F`` ``[r, m]``.
    :param linear: ``[m, k]``, in the range of the matrix.
    """
    basis, upper = np.linalg.qr(thin.T)
    targets = np.linalg.solve(upper, -(basis.T @ linear))
    return np.stack([least_squares(thin, target) for target in targets.T], axis=1)


def least_squares(factor: Array, target: Array) -> Array:
    """``argmin ‖Fy - t‖`` over ``y >= 0``, not to be believed; zero where it does not end.

    :param factor: ``F`` ``[r, m]``.
    :param target: ``t`` ``[r]``.
    """
    import scipy.optimize

    try:
        return np.asarray(scipy.optimize.nnls(factor, target, maxiter=50 * factor.shape[1])[0])
    except RuntimeError:  # too many iterations: the residual will tell
        return np.zeros(factor.shape[1])
