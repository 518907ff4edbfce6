"""The point of smallest norm in the convex hull of the rows of the Jacobian."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from jdframework.linalg.host import on_host
from jdframework.linalg.nonnegative import nonnegative_qp
from jdframework.linalg.unit_problem import Array


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
    gramian = gramian / squares.max()  # which changes no weight, and cannot overflow below
    smallest = gramian.diagonal().min()
    weights = nonnegative_qp(gramian + smallest, np.full((len(gramian), 1), -smallest))[:, 0]
    return np.asarray(weights / weights.sum())


def _min_norm_of_two(gramian: Array) -> Array:
    (first, product), (_, second) = gramian / gramian.diagonal().max()
    if product >= min(first, second):
        return np.array([first <= second, first > second], dtype=np.float64)
    weights = np.array([second - product, first - product])
    return np.asarray(weights / weights.sum())


def duality_gap(gramian: Array, weights: Array) -> float:
    """``(aᵀGa - min_i (Ga)_i) / aᵀGa``, which is zero exactly at the optimum.

    A violation that rounding the terms of ``(Ga)_i`` explains does not count: near the optimum of
    opposite or unequally long rows they cancel to a small remainder.

    :param gramian: ``[m, m]``.
    :param weights: ``[m]`` on the simplex.
    """
    products = gramian @ weights
    value = float(weights @ products)
    unsure = 2 * len(weights) * np.finfo(np.float64).eps * (np.abs(gramian) @ weights)
    gap = max(0.0, value - float((products + unsure).min()))
    return gap / value if gap > 0 else 0.0
