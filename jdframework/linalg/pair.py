"""The non-negative problem of two rows, in closed form: the most frequent one, and the shortest."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from jdframework.linalg.unit_problem import Array

_EPSILON: Final = float(np.finfo(np.float64).eps)
_EXACT: Final = 1e-13
"""The violation of a condition, relative to its terms, up to which a solution is handed back."""


def pair_solution(matrix: Array, linear: Array) -> Array | None:
    """``argmin ½ yᵀHy + qᵀy`` over ``y >= 0`` for two rows; None if that takes more care.

    :param matrix: ``H`` ``[2, 2]``, positive semi-definite, with a positive diagonal.
    :param linear: ``[2, k]``, one problem a column.
    :return: ``[2, k]``; None where the rows are so nearly opposite that digits would be lost.

    >>> pair_solution(np.eye(2), np.array([[-3.0], [1.0]]))
    array([[3.],
           [0.]])
    """
    (first, product), (_, second) = matrix.tolist()
    lengths = math.sqrt(first), math.sqrt(second)
    cosine = product / (lengths[0] * lengths[1])
    found = []
    for column in linear.T.tolist():
        solved = _solved(cosine, column[0] / lengths[0], column[1] / lengths[1])
        if solved is None:
            return None
        found.append((solved[0] / lengths[0], solved[1] / lengths[1]))
    return np.array(found).reshape(-1, 2).T


def _solved(cosine: float, a: float, b: float) -> tuple[float, float] | None:
    """The solution for unit rows with this cosine and ``q = (a, b)``."""
    unsure = 4 * _EPSILON * (abs(a) + abs(b))
    if a >= 0.0 and b >= 0.0:
        return 0.0, 0.0
    if a < 0.0 and b - cosine * a >= -unsure:
        return -a, 0.0
    if b < 0.0 and a - cosine * b >= -unsure:
        return 0.0, -b
    determinant = 1.0 - cosine * cosine
    if determinant <= 0.0:
        return None
    x, y = (cosine * b - a) / determinant, (cosine * a - b) / determinant
    misses = max(abs(x + cosine * y + a), abs(y + cosine * x + b))
    exact = misses <= _EXACT * (abs(a) + abs(b))
    return (x, y) if exact and x >= 0.0 and y >= 0.0 else None
