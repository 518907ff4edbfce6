"""Weights under which the update has equal projections on all gradients."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from jaxtyping import Float
from torch import Tensor

from jdframework.linalg.host import on_host
from jdframework.linalg.spectral import precision_of, pseudo_solution
from jdframework.linalg.unit_problem import Array, unit_rows

_OPPOSITE: Final = -0.99
"""From this cosine on, two rows might balance out."""


def impartial_weights(gramian: Float[Tensor, "m m"]) -> Float[Tensor, " m"]:
    """``a = G⁺n / (1ᵀG⁺n)`` with ``n`` the rows' norms: equal projections on the unit rows.

    It is computed as ``a_i`` proportional to ``(C⁺1)_i / n_i`` with ``C`` the Gramian of the unit
    rows, which among dependent rows, too, loses no short one.

    :param gramian: ``[m, m]``.
    :return: ``[m]`` with sum one, zero for a zero row. All zero where no such weights exist: where
        the unit rows balance out, or the weights sum to zero. NaN where the Gramian is not finite.

    >>> import torch
    >>> impartial_weights(torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    tensor([0.6667, 0.3333])
    """
    return on_host(_impartial, gramian, shape=(len(gramian),))


def _impartial(gramian: Array) -> Array:
    found = _of_two(gramian) if len(gramian) == 2 else None
    if found is not None:
        return found
    cosines, norms = unit_rows(gramian)
    present = norms > 0.0
    if not present.any():
        return np.zeros_like(norms)
    tolerance = len(gramian) * precision_of(gramian)
    solved = pseudo_solution(cosines, present.astype(np.float64), tolerance)
    if present.all():
        shares = solved * (norms.min() / norms)
    else:
        smallest = norms[present].min()  # however small, what follows is finite
        shares = np.divide(solved * smallest, norms, out=np.zeros_like(norms), where=present)
    total, update = float(shares.sum()), cosines @ solved
    balanced = math.sqrt(update @ update) <= tolerance * math.sqrt(present.sum())
    if balanced or abs(total) <= max(1e-12, tolerance) * float(np.abs(shares).sum()):
        return np.zeros_like(shares)
    return np.asarray(shares / total)


def _of_two(gramian: Array) -> Array | None:
    """Each row gets the other one's share of the lengths; None if that takes more care."""
    (first, product), (_, second) = gramian.tolist()
    if first <= 0.0 or second <= 0.0:
        return None
    lengths = math.sqrt(first), math.sqrt(second)
    if product / lengths[0] / lengths[1] <= _OPPOSITE:
        return None
    total = lengths[0] + lengths[1]
    return np.array([lengths[1] / total, lengths[0] / total])
