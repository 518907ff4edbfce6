"""Many non-negative quadratic programs with one matrix: guess the signs, solve, exchange the wrong.

The guess is a fixed number of steps of the alternating direction method of multipliers (Boyd et
al. 2011, section 5.2) on all columns at once: one product of matrices a step, in single precision.
It names most free variables. Block principal pivoting (Júdice & Pires 1994; Kim & Park, SIAM J.
Sci. Comput. 2011) then solves for those exactly and exchanges whatever has the wrong sign, one or
two times. Where the matrix is singular the minimiser is not unique: a weak pull towards the guess
takes the one that is next to it, whose signs are therefore right.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from jdframework.linalg.unit_problem import Array, Mask, kkt_residual

_STEPS: Final = (60, 240)
"""Of the guess; the second number is for the columns that the first one does not settle."""
_PENALTY: Final = 0.1
_RELAXATION: Final = 1.7
_PULL: Final = 1e-12
_SIGN: Final = 1e-12
"""What counts as a wrong sign, relative to the column's largest term."""
_SETTLED: Final = 1e-9


def pivoted(unit: Array, linear: Array, patience: int = 0) -> Array:
    """``argmin ½ yᵀHy + qᵀy`` over ``y >= 0``, for the columns on which pivoting ends.

    The others come back zero.

    :param unit: ``H`` ``[m, m]``, positive semi-definite with a unit diagonal.
    :param linear: ``[m, k]``, one ``q`` a column.
    :param patience: How many times a column may have no fewer wrong signs than before. It then
        exchanges only its last one, which in exact arithmetic always ends (Murty 1974).
    :return: ``[m, k]``.
    """
    definite = unit + _PULL * np.eye(len(unit))
    solution = np.zeros_like(linear)
    left = np.arange(linear.shape[1])
    for steps in _STEPS:
        columns = linear[:, left]
        guess = _guess(unit, columns, steps)
        found = exchanged(definite, _PULL * guess - columns, guess > 0.0, patience)
        settled = kkt_residual(unit, columns, found) <= _SETTLED
        solution[:, left[settled]] = found[:, settled]
        left = left[~settled]
        if not left.size:
            break
    return solution


def exchanged(definite: Array, target: Array, free: Mask, patience: int = 0) -> Array:
    """Exchanges wrong signs while a column has fewer of them than ever before, or patience.

    :param definite: ``H`` ``[m, m]``, positive definite.
    :param target: ``-q`` ``[m, k]``.
    :param free: ``[m, k]``, the first guess of the variables that are positive.
    :param patience: As in :func:`pivoted`.
    :return: ``[m, k]``, non-negative; the solution where the exchanges have come to an end.
    """
    free = free.copy()
    solution = np.zeros_like(target)
    left = np.arange(target.shape[1])
    fewest = np.full_like(left, len(definite) + 1)
    tries = np.full_like(left, patience)
    while left.size:
        right, signs = target[:, left], free[:, left]
        found = solve_free(definite, right, signs)
        tolerance = _SIGN * (1.0 + np.abs(found).max(axis=0))
        wrong = np.where(signs, found, definite @ found - right) < -tolerance
        solution[:, left] = found
        count = wrong.sum(axis=0)
        better = count < fewest[left]
        tries[left] -= ~better
        fewest[left] = np.minimum(fewest[left], count)
        going = (count > 0) & (tries[left] >= 0)
        left, wrong = left[going], np.where(better, wrong, _last_true(wrong))[:, going]
        free[:, left] ^= wrong
    return np.maximum(solution, 0.0)


def solve_free(definite: Array, right: Array, free: Mask) -> Array:
    """``H_FF y_F = r_F`` for each column's free variables ``F``; the others are zero.

    :param definite: ``H`` ``[m, m]``, positive definite.
    :param right: ``[m, k]``, one ``r`` a column.
    :param free: ``[m, k]``.
    """
    from scipy.linalg.lapack import dposv

    alike: dict[bytes, list[int]] = {}
    for column, signs in enumerate(np.ascontiguousarray(free.T)):
        alike.setdefault(signs.tobytes(), []).append(column)
    solution = np.zeros_like(right)
    for columns in alike.values():
        rows = np.flatnonzero(free[:, columns[0]])
        if rows.size:
            block = (rows[:, None], columns)
            solution[block] = dposv(definite[rows[:, None], rows].T, right[block])[1]
    return solution


def _guess(unit: Array, linear: Array, steps: int) -> Array:
    inverse = np.linalg.inv(unit + _PENALTY * np.eye(len(unit)))
    forward = (_PENALTY * inverse).astype(np.float32)
    offset = (inverse @ linear).astype(np.float32)
    point = np.zeros_like(offset)
    dual = np.zeros_like(offset)
    for _ in range(steps):
        dual += _RELAXATION * (forward @ (point - dual) - offset) + (1 - _RELAXATION) * point
        point = np.maximum(dual, 0.0)
        dual -= point
    return point.astype(np.float64)


def _last_true(mask: Mask) -> Mask:
    last = len(mask) - 1 - np.argmax(mask[::-1], axis=0)
    return np.asarray(mask & (np.arange(len(mask))[:, None] == last))
