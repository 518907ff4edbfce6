"""Weights under which the update has equal projections on all gradients."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from jdframework.linalg.gramian import normalised
from jdframework.linalg.host import on_host
from jdframework.linalg.spectral import carried_precision, pseudo_solve
from jdframework.linalg.unit_problem import Array


def impartial_weights(gramian: Float[Tensor, "m m"]) -> Float[Tensor, " m"]:
    """``a = G⁺n / (1ᵀG⁺n)`` with ``n`` the rows' norms: equal projections on the unit rows.

    It is computed as ``a_i`` proportional to ``(C⁺1)_i / n_i`` with ``C`` the Gramian of the unit
    rows, which among dependent rows, too, loses no short one.

    :param gramian: ``[m, m]``.
    :return: ``[m]`` with sum one, zero for a zero row. All zero where no such weights exist: where
        the unit rows balance out, or the weights sum to zero. NaN where the Gramian is not finite.

    >>> impartial_weights(torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    tensor([0.6667, 0.3333])
    """
    return on_host(_impartial, gramian, shape=(len(gramian),))


def _impartial(matrix: Array) -> Array:
    gramian = torch.from_numpy(matrix)
    cosines, norms = normalised(gramian)
    present = (norms > 0).to(gramian.dtype)
    tolerance = len(gramian) * carried_precision(gramian)
    solved = pseudo_solve(cosines, present, tolerance)
    shares = solved * _relative(norms)
    total = shares.sum()
    balanced = (cosines @ solved).norm() <= tolerance * present.norm()
    cancelling = total.abs() <= max(1e-12, tolerance) * shares.abs().sum()
    weights: Array = torch.where(balanced | cancelling, 0.0, shares / total).numpy()
    return weights


def _relative(norms: Tensor) -> Tensor:
    """``smallest / n_i``, which stays finite however small the norms are."""
    present = norms > 0
    smallest = torch.where(present, norms, torch.inf).min()
    return torch.where(present, smallest / norms, 0.0)
