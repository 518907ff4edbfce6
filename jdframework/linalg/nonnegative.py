"""The kernel of the kernels: ``min ½ yᵀHy + qᵀy`` over ``y >= 0``, many ``q`` at once.

The dual cone's projections and the min-norm point are both this problem. It is solved to the last
digits by block principal pivoting (Júdice & Pires 1994; Kim & Park, SIAM J. Sci. Comput. 2011):
guess which variables are positive, solve for those, exchange whatever has the wrong sign. Larger
problems get their first guess from accelerated projected gradient steps on all columns at once.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jdframework.errors import SolverError

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

_RIDGE: Final = 1e-12
"""Added to the unit diagonal while pivoting, so that dependent rows leave a regular system; one
step of iterative refinement on the unregularised problem then removes its trace."""
_SIGN: Final = 1e-11
"""What counts as a wrong sign, relative to the column's largest term."""
_ACCEPTED: Final = 1e-9
"""The largest KKT residual that is handed back."""
_SMALL: Final = 24
"""Up to this size, solving all of the masked systems beats compressing them first."""
_ROUNDS: Final = 100
_PATIENCE: Final = 3
"""How often a full exchange may fail to make progress before single exchanges (Murty) take over."""


def nonnegative_qp(matrix: Array, linear: Array) -> Array:
    """``argmin ½ yᵀHy + qᵀy`` over ``y >= 0`` for each column ``q`` of ``linear``.

    :param matrix: ``H`` ``[m, m]``, symmetric and positive semi-definite. Each problem must be
        bounded below.
    :param linear: ``[m, k]``, one problem a column.
    :return: ``[m, k]``. Where ``H`` is singular, one of the minimisers.
    :raises SolverError: if a column's KKT residual, relative to the row-normalised problem, stays
        above 1e-9 in the fallback, too.

    >>> nonnegative_qp(np.eye(2), np.array([[-3.0], [1.0]]))
    array([[3.],
           [0.]])
    """
    unit, scaled, undo = row_normalised(matrix, linear)
    return np.asarray(_solve_unit(unit, scaled) * undo)


def row_normalised(matrix: Array, linear: Array) -> tuple[Array, Array, Array]:
    """The problem with a unit diagonal and columns of size one, and the factor back.

    :param matrix: ``[m, m]``; a row whose diagonal entry is zero becomes zero.
    :param linear: ``[m, k]``.
    :return: ``[m, m]``, ``[m, k]``, and the ``[m, k]`` by which its solution is multiplied.
    """
    scale = np.sqrt(np.maximum(np.diagonal(matrix), 0.0))
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    unit = matrix * inverse * inverse[:, None]
    scaled = linear * inverse[:, None]
    size = np.abs(scaled).max(axis=0, initial=0.0)
    size[size == 0.0] = 1.0
    return unit, scaled / size, size * inverse[:, None]


def kkt_residual(matrix: Array, linear: Array, solution: Array) -> Array:
    """How far each column is from optimal: the largest violation of any KKT condition.

    :param matrix: ``[m, m]`` with a unit diagonal, so that the residual is relative.
    :param linear: ``[m, k]``.
    :param solution: ``[m, k]``.
    :return: ``[k]``.
    """
    slope = matrix @ solution + linear
    unmet = np.maximum(-slope, 0.0).max(axis=0, initial=0.0)
    slack = np.abs(np.where(solution > 0.0, slope, 0.0)).max(axis=0, initial=0.0)
    negative = np.maximum(-solution, 0.0).max(axis=0, initial=0.0)
    return np.maximum(np.maximum(unmet, slack), negative)


def _solve_unit(unit: Array, linear: Array) -> Array:
    m = len(unit)
    if m == 1:
        return np.maximum(-linear, 0.0)
    free = linear < 0.0 if m <= _SMALL else _gradient_guess(unit, linear)
    solution = _pivot(unit, linear, free)
    failed = kkt_residual(unit, linear, solution) > _ACCEPTED
    if failed.any():
        solution[:, failed] = _active_set(unit, linear[:, failed])
    return solution


def _pivot(unit: Array, linear: Array, free: Mask) -> Array:
    """Exchanges wrong signs until none is left, on the columns that still have some."""
    m, k = linear.shape
    solution = np.zeros((m, k))
    open_columns = np.arange(k)
    fewest = np.full(k, m + 1)
    patience = np.full(k, _PATIENCE)
    for _ in range(_ROUNDS):
        mask = free[:, open_columns]
        right = linear[:, open_columns]
        found = _solve_free(unit, right, mask)
        slope = unit @ found + right
        tolerance = _SIGN * (1.0 + np.abs(found).max(axis=0))
        wrong = (mask & (found < -tolerance)) | (~mask & (slope < -tolerance))
        solution[:, open_columns] = found
        count = wrong.sum(axis=0)
        unsettled = count > 0
        if not unsettled.any():
            break
        open_columns, wrong, count = open_columns[unsettled], wrong[:, unsettled], count[unsettled]
        better = count < fewest[open_columns]
        fewest[open_columns] = np.minimum(fewest[open_columns], count)
        patience[open_columns] = np.where(better, _PATIENCE, patience[open_columns] - 1)
        single = patience[open_columns] < 0
        if single.any():
            wrong[:, single] &= _last_true(wrong[:, single])
        free[:, open_columns] ^= wrong
    return np.maximum(solution, 0.0)


def _last_true(mask: Mask) -> Mask:
    rows = len(mask) - 1 - np.argmax(mask[::-1], axis=0)
    return np.asarray(np.arange(len(mask))[:, None] == rows)


def _solve_free(unit: Array, linear: Array, free: Mask) -> Array:
    """The unconstrained minimiser over each column's free variables, the others zero."""
    if len(unit) <= _SMALL:
        return _solve_masked(unit, linear, free)
    return _solve_compressed(unit, linear, free)


def _solve_masked(unit: Array, linear: Array, free: Mask) -> Array:
    m = len(unit)
    rows = free.T
    systems = np.where(rows[:, :, None] & rows[:, None, :], unit, 0.0)
    systems[:, range(m), range(m)] = np.where(rows, 1.0 + _RIDGE, 1.0)
    right = np.where(rows, -linear.T, 0.0)
    first = np.linalg.solve(systems, right[:, :, None])[:, :, 0]
    residual = np.where(rows, right - first @ unit, 0.0)
    refined = first + np.linalg.solve(systems, residual[:, :, None])[:, :, 0]
    return np.ascontiguousarray(refined.T)


def _solve_compressed(unit: Array, linear: Array, free: Mask) -> Array:
    m, k = linear.shape
    most = int(free.sum(axis=0).max())
    if most == 0:
        return np.zeros((m, k))
    order = np.argsort(~free.T, axis=1, kind="stable")[:, :most]
    used = np.take_along_axis(free.T, order, axis=1)
    systems = unit[order[:, :, None], order[:, None, :]]
    systems *= used[:, :, None] & used[:, None, :]
    systems[:, range(most), range(most)] = np.where(used, 1.0 + _RIDGE, 1.0)
    right = np.where(used, -np.take_along_axis(linear.T, order, axis=1), 0.0)
    first = np.linalg.solve(systems, right[:, :, None])[:, :, 0]
    bias = _RIDGE * first
    refined = first + np.linalg.solve(systems, bias[:, :, None])[:, :, 0]
    solution = np.zeros((k, m))
    np.put_along_axis(solution, order, np.where(used, refined, 0.0), axis=1)
    return np.ascontiguousarray(solution.T)


def _gradient_guess(unit: Array, linear: Array, iterations: int = 100) -> Mask:
    """Which variables are positive after restarted accelerated projected gradient steps."""
    step = 1.0 / np.linalg.norm(unit, 2)
    point = np.zeros_like(linear)
    ahead = point
    momentum = np.ones(linear.shape[1])
    for _ in range(iterations):
        following = np.maximum(ahead - step * (unit @ ahead + linear), 0.0)
        moved = following - point
        restart = ((ahead - following) * moved).sum(axis=0) > 0.0
        momentum[restart] = 1.0
        grown = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum**2))
        ahead = following + ((momentum - 1.0) / grown) * moved
        point, momentum = following, grown
    return point > 1e-9


def _active_set(unit: Array, linear: Array) -> Array:
    """The fallback, column by column: Lawson and Hanson's algorithm on a factor of the matrix."""
    from scipy.optimize import nnls

    values, vectors = np.linalg.eigh(unit)
    kept = values > len(unit) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    root = np.sqrt(values[kept])
    factor = root[:, None] * vectors[:, kept].T
    target = -(vectors[:, kept].T @ linear) / root[:, None]
    try:
        columns = [nnls(factor, column, maxiter=50 * len(unit))[0] for column in target.T]
    except RuntimeError as error:
        raise SolverError(_failure(unit, str(error))) from error
    solution = np.stack(columns, axis=1)
    worst = float(kkt_residual(unit, linear, solution).max())
    if not worst <= 100 * _ACCEPTED:
        raise SolverError(_failure(unit, f"KKT residual {worst:.1e}"))
    return solution


def _failure(unit: Array, reason: str) -> str:
    condition = float(np.linalg.cond(unit))
    return f"no solution of a non-negative quadratic program: {reason} (m = {len(unit)}, condition number {condition:.1e})"
