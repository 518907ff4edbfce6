"""Many non-negative quadratic programs with one matrix: guess the signs, solve, exchange the wrong.

The guess is that of :class:`~jdframework.linalg.splitting.Splitting`. Block principal pivoting
(Júdice & Pires 1994; Kim & Park, SIAM J. Sci. Comput. 2011) then solves for the free variables
exactly and exchanges whatever has the wrong sign, one or two times. A column is tried once its
guess has nearly come to rest, for each trial factorises a matrix of its own. Where the matrix is
singular the minimiser is not unique: a weak pull towards the guess takes the one that is next to
it, whose signs are therefore right.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from jdframework.linalg.splitting import Splitting
from jdframework.linalg.unit_problem import Array, Mask, kkt_residual

_FIRST: Final = 5
"""Steps of the guess after which the penalties first follow what they have shown."""
_BLOCKS: Final = (15, 20, 40, 40, 40, 60)
"""Further steps, after each of which columns are tried; after the last, all that are left."""
_WATCHED: Final = 5
"""The last steps of a block, in which a guess that has come to rest changes hardly a sign."""
_ROWS: Final = 400
"""One sign, and one more for so many rows."""
_PULL: Final = 1e-12
"""What is added to the diagonal for the minimiser that is next to the guess."""
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
    splitting = Splitting(unit, linear)
    splitting.advance(_FIRST)
    for steps in _BLOCKS:
        splitting.adapt()
        splitting.advance(steps - _WATCHED)
        before = splitting.free
        splitting.advance(_WATCHED)
        free = splitting.free
        moved = (free ^ before).sum(axis=0)
        ready = (moved <= 1 + len(unit) // _ROWS) | (steps == _BLOCKS[-1])
        if not ready.any():
            continue
        columns, guess = linear[:, left[ready]], splitting.point[:, ready]
        found = exchanged(definite, _PULL * guess - columns, free[:, ready], patience)
        settled = kkt_residual(unit, columns, found) <= _SETTLED
        solution[:, left[ready][settled]] = found[:, settled]
        going = ~ready
        going[ready] = ~settled
        left = left[going]
        if not left.size:
            break
        splitting.keep(going)
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
            own = definite.take(rows, 0).take(rows, 1)  # which is quicker than by both at once
            solution[block] = dposv(own.T, right[block], overwrite_a=True)[1]
    return solution


def _last_true(mask: Mask) -> Mask:
    last = len(mask) - 1 - np.argmax(mask[::-1], axis=0)
    return np.asarray(mask & (np.arange(len(mask))[:, None] == last))
