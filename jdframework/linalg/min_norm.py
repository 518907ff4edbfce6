"""The point of smallest norm in the convex hull of the rows of the Jacobian."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from jdframework.linalg.host import on_host
from jdframework.linalg.nonnegative import Array, nonnegative_qp


def min_norm_weights(gramian: Float[Tensor, "m m"]) -> Float[Tensor, " m"]:
    """``argmin aᵀGa`` over the probability simplex, to the last digits.

    It is turned into one non-negative problem, ``min ‖Jᵀa‖² + (1ᵀa - 1)²`` over ``a >= 0``, whose
    solution is a multiple of the wanted one (Lawson & Hanson 1974, chapter 23), on rows scaled to
    unit norm.

    :param gramian: ``[m, m]``.
    :return: ``[m]``, non-negative, with sum 1; NaN where the Gramian is not finite. A zero row
        has the smallest norm there is: zero rows then share the weight.
    :raises SolverError: if the problem cannot be solved to 1e-9.

    >>> import torch
    >>> min_norm_weights(torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    tensor([0.8000, 0.2000])
    """
    return on_host(_min_norm, gramian, shape=(len(gramian),))


def _min_norm(gramian: Array) -> Array:
    norms = np.sqrt(np.maximum(np.diagonal(gramian), 0.0))
    zero = norms == 0.0
    if zero.any():
        return zero / zero.sum()
    smallest = norms.min()
    ratios = smallest / norms
    cosines = gramian / norms / norms[:, None]
    coupled = cosines + np.outer(ratios, ratios)
    scaled = nonnegative_qp(coupled, -ratios[:, None])[:, 0]
    weights = scaled * ratios
    return np.asarray(weights / weights.sum())


def duality_gap(gramian: Array, weights: Array) -> float:
    """``(aᵀGa - min_i (Ga)_i) / aᵀGa``: zero exactly at the optimum, relative to the squared norm.

    :param gramian: ``[m, m]``.
    :param weights: ``[m]`` on the simplex.
    """
    products = gramian @ weights
    value = float(weights @ products)
    return (value - float(products.min())) / value if value > 0 else 0.0
