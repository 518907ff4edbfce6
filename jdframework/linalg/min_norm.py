"""The point of smallest norm in the convex hull of the rows of the Jacobian."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float
from torch import Tensor

from jdframework.linalg.host import on_host
from jdframework.linalg.interior import interior_solution
from jdframework.linalg.low_rank import low_rank_factor
from jdframework.linalg.nonnegative import least_squares, nonnegative_qp
from jdframework.linalg.pivoting import exchanged
from jdframework.linalg.unit_problem import Array, ridge, rounding, unit_rows, violation

_MANY: Final = 32
"""Above this size, a quick way is tried first."""
_LARGE: Final = 512
"""Above it, an interior-point method takes less time than active sets."""
_UNEQUAL: Final = 1e-8
"""Squares of norms down to this share of the largest leave the longest row's weight its digits."""
_REFINEMENTS: Final = 3
_AIM: Final = 1e-12
"""How far a condition may be missed for the quick way's result to be taken, and for refinement,
relative to the optimum's square, to end."""


def min_norm_weights(gramian: Float[Tensor, "m m"]) -> Float[Tensor, " m"]:
    """``argmin aᵀGa`` over the probability simplex, to the last digits.

    It is turned into one non-negative problem, ``min ‖Jᵀa‖² + s²(1ᵀa - 1)²`` over ``a >= 0``, whose
    solution is a multiple of the wanted one for any ``s`` (Lawson & Hanson 1974, chapter 23). The
    smallest row's norm as ``s`` keeps both terms of one size.

    :param gramian: ``[m, m]``.
    :return: ``[m]``, non-negative, with sum 1; NaN where the Gramian is not finite. A zero row
        has the smallest norm there is: zero rows then share the weight.
    :raises SolverError: if the problem cannot be solved to 1e-9.

    >>> import torch
    >>> min_norm_weights(torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    tensor([0.8000, 0.2000])
    """
    return on_host(min_norm_point, gramian, shape=(len(gramian),))


def min_norm_point(gramian: Array) -> Array:
    """:func:`min_norm_weights` of a finite array, for solvers that are on the host already.

    :param gramian: ``[m, m]``, symmetric.
    :raises SolverError: if the problem cannot be solved to 1e-9.
    """
    squares = gramian.diagonal()
    zero = squares <= 0.0
    if zero.any():
        return np.asarray(zero / zero.sum())
    if len(gramian) == 2:
        return _min_norm_of_two(gramian)
    weights = _min_norm_of_many(gramian) if len(gramian) > _MANY else None
    if weights is not None and squares.min() >= _UNEQUAL * squares.max():
        return weights
    gramian = gramian / squares.max()  # which changes no weight, and cannot overflow below
    smallest = gramian.diagonal().min()
    if weights is None:
        weights = nonnegative_qp(gramian + smallest, np.full((len(gramian), 1), -smallest))[:, 0]
    weights = weights / weights.sum()
    return _refined(gramian, weights) if smallest < _UNEQUAL else np.asarray(weights)


def _refined(gramian: Array, weights: Array) -> Array:
    """Solves for the positive weights once more, from their own conditions' residuals.

    A long row's weight is small, and beside the others' it has few digits left, although the
    row's inner product with the update hangs on it. Its residual has all of them.
    """
    from scipy.linalg.lapack import dposv

    matrix = gramian + gramian.diagonal().min()
    norms = np.sqrt(matrix.diagonal())
    least, square = _missed(gramian, weights)
    for _ in range(_REFINEMENTS):
        if square <= 0.0 or least <= _AIM * square:
            break
        products = matrix @ weights
        level = weights @ products
        support = np.flatnonzero((weights > 0.0) | (products < level))
        own = norms[support]
        unit = matrix[support[:, None], support] / own / own[:, None]
        correction, failed = dposv(unit, (level - products[support]) / own)[1:]
        if failed:
            break
        refined = weights.copy()
        refined[support] = np.maximum(refined[support] + correction / own, 0.0)
        refined /= refined.sum()
        missed, reached = _missed(gramian, refined)
        if not missed < least:
            break
        weights, least, square = refined, missed, reached
    return weights


def _min_norm_of_two(gramian: Array) -> Array:
    (first, product), (_, second) = gramian / gramian.diagonal().max()
    if product >= min(first, second):
        return np.array([first <= second, first > second], dtype=np.float64)
    weights = np.array([second - product, first - product])
    return np.asarray(weights / weights.sum())


def _min_norm_of_many(gramian: Array) -> Array | None:
    """The weights, by quick ways for ``y = |g| a``; None where neither ends there.

    Nearly all of many independent rows have a weight, so that exchanging the wrong signs of
    all-positive ends after a few systems of equations. Of dependent rows no more than their rank
    and one need a weight: Lawson and Hanson's algorithm finds them one by one, by a factor with as
    many rows as the rank.
    """
    unit, norms = unit_rows(gramian)
    factor = low_rank_factor(unit)
    if factor is None:
        return None
    sums = norms.min() / norms
    if len(factor) == len(unit):
        every = np.ones((len(unit), 1), dtype=bool)
        solution = exchanged(unit + sums * sums[:, None], sums[:, None], every)[:, 0]
    elif len(unit) > _LARGE:
        matrix = unit + sums * sums[:, None]
        sizes = np.sqrt(matrix.diagonal())
        matrix /= sizes
        matrix /= sizes[:, None]
        solution = interior_solution(matrix, -(sums / sizes)[:, None])[:, 0] / sizes
    else:
        solution = _fitted(np.vstack([factor, sums]))
    solution[solution < ridge(len(unit)) * solution.max()] = 0.0  # rounding of a zero
    slope = factor.T @ (factor @ solution) + sums * (sums @ solution - 1.0)
    if violation(solution, slope) > _AIM + rounding(solution):
        return None
    weights = solution * sums
    return np.asarray(weights / weights.sum())


def _fitted(upper: Array) -> Array:
    """``argmin ‖Fy‖² + (s·y - 1)²`` over ``y >= 0``, of ``F`` and ``s`` below it."""
    target = np.zeros(len(upper))
    target[-1] = 1.0
    return least_squares(upper, target)


def _missed(gramian: Array, weights: Array) -> tuple[float, float]:
    """By how much a condition is missed, where a weight is positive also upwards; and ``aᵀGa``.

    The one is not divided by the other: where the rows cancel out, a longer update would then seem
    to miss less.

    :param gramian: ``[m, m]``.
    :param weights: ``[m]`` on the simplex.
    """
    products = gramian @ weights
    value = float(weights @ products)
    off = np.where(weights > 0.0, np.abs(products - value), value - products)
    worst = float((off - _unsure(gramian, weights)).max())
    return max(worst, 0.0), value


def duality_gap(gramian: Array, weights: Array) -> float:
    """``(aᵀGa - min_i (Ga)_i) / aᵀGa``, which is zero exactly at the optimum.

    A violation that rounding the terms of ``(Ga)_i`` explains does not count: near the optimum of
    opposite or unequally long rows they cancel to a small remainder.

    :param gramian: ``[m, m]``.
    :param weights: ``[m]`` on the simplex.
    """
    products = gramian @ weights
    value = float(weights @ products)
    gap = max(0.0, value - float((products + _unsure(gramian, weights)).min()))
    return gap / value if gap > 0 else 0.0


def _unsure(gramian: Array, weights: Array) -> Array:
    """What rounding may have changed each row's inner product with the update by."""
    return np.asarray(2 * len(weights) * np.finfo(np.float64).eps * (np.abs(gramian) @ weights))
