"""One large non-negative quadratic program, by an interior-point method.

Mehrotra's predictor and corrector (SIAM J. Optim. 1992) take ten to twenty factorisations, however
degenerate the problem is, where active sets take one step for each positive variable. The point
that it ends at lies in the middle of the solutions; its signs tell the free variables, for which
it is then solved exactly.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from jdframework.linalg.low_rank import range_of_dependent
from jdframework.linalg.pivoting import exchanged, solve_free
from jdframework.linalg.unit_problem import Array

_STEPS: Final = 50
_COMPLEMENTARY: Final = 1e-14
_FEASIBLE: Final = 1e-12
_TO_THE_EDGE: Final = 0.995
"""The share of the way to the nearest bound that a step goes at most."""
_RIDGE: Final = 1e-8
"""Beside which the rounding of dependent rows is nothing; it changes small corrections hardly."""
_CORRECTIONS: Final = 2
_CENTRED: Final = 1e-3
"""A variable that is positive is no smaller than this share of the mean."""
_FLAT: Final = 0.75
"""Rows may balance out if their rank is below this share of their number."""
_CLEAR: Final = 1e-6
"""Eigenvalues above this share of the largest are not zero."""


def interior_solution(unit: Array, linear: Array) -> Array:
    """``argmin ½ yᵀHy + qᵀy`` over ``y >= 0``, not to be believed.

    :param unit: ``H`` ``[m, m]``, positive semi-definite with a unit diagonal.
    :param linear: ``[m, k]``, one ``q`` a column, which are solved one by one.
    :return: ``[m, k]``.
    """
    definite = unit + _RIDGE * np.eye(len(unit))
    solution = np.empty_like(linear)
    for column in range(linear.shape[1]):
        q = linear[:, [column]]
        point, slopes = _central(unit, q[:, 0])
        free = (point > slopes)[:, None]
        found = np.where(free, point[:, None], 0.0)
        # Many variables may be free whose rows are dependent: only what is left is solved for.
        for _ in range(_CORRECTIONS):
            found += solve_free(definite, -(unit @ found + q), free)
        if (found < 0.0).any():
            found = exchanged(definite, _RIDGE * point[:, None] - q, free)
        solution[:, [column]] = found
    return solution


def balanced_solution(unit: Array, linear: Array) -> Array | None:
    """The solutions where the rows balance out: where ``Hc = 0`` for some ``c > 0``.

    Then ``Hy + q = 0`` has a non-negative solution whatever ``q`` is in the range of ``H``: any
    solution and enough of ``c``. The interior-point method's ``c`` is in the middle of all, so that
    not more of it is needed than necessary, and rounding stays what it is.

    :param unit: ``H`` ``[m, m]``, positive semi-definite with a unit diagonal.
    :param linear: ``[m, k]``.
    :return: ``[m, k]``; None where it is not clear that they do.
    """
    own = range_of_dependent(unit, _CLEAR)
    if own is None or len(own.factor) > _FLAT * len(unit):
        return None
    ones = np.ones(len(unit))
    balance = ones + _central(unit, unit @ ones)[0]
    balance -= own.basis @ (own.basis.T @ balance)
    if not balance.min() > _CENTRED * balance.mean():
        return None
    particular = -own.solved(linear)
    multiples = (-particular / balance[:, None]).max(axis=0)
    return np.maximum(particular + balance[:, None] * multiples, 0.0)


def _central(unit: Array, linear: Array) -> tuple[Array, Array]:
    """``y`` and its slopes, both positive, and nearly zero one or the other."""
    from scipy.linalg.lapack import dpotrf, dpotrs

    m = len(unit)
    size = max(float(np.abs(linear).max()), np.finfo(np.float64).tiny)
    point, slopes = np.full(m, size), np.full(m, size)
    for _ in range(_STEPS):
        residual = unit @ point + linear - slopes
        gap = float(point @ slopes) / m
        if gap <= _COMPLEMENTARY * size**2 and np.abs(residual).max() <= _FEASIBLE * size:
            break
        ratio = slopes / point
        scale = 1.0 / np.sqrt(1.0 + ratio)  # which makes the diagonal one
        matrix = unit * scale
        matrix *= scale[:, None]
        matrix.flat[:: m + 1] = 1.0
        factor, failed = dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
        if failed:
            break
        first = scale * dpotrs(factor, scale * (-residual - slopes), lower=1)[0]
        change = -slopes - ratio * first
        length = min(_room(point, first), _room(slopes, change))
        reached = float((point + length * first) @ (slopes + length * change)) / m
        aim = ((reached / gap) ** 3 * gap - first * change) / point
        step = scale * dpotrs(factor, scale * (-residual - slopes + aim), lower=1)[0]
        change = aim - slopes - ratio * step
        length = min(1.0, _TO_THE_EDGE * min(_room(point, step), _room(slopes, change)))
        point, slopes = point + length * step, slopes + length * change
    return point, slopes


def _room(values: Array, step: Array) -> float:
    """Which multiple of the step, up to one, makes a value zero."""
    falling = step < 0.0
    return min(1.0, float((-values[falling] / step[falling]).min(initial=1.0)))
