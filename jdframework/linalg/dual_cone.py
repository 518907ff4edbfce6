"""Projection onto the dual cone of the rows of the Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jdframework.errors import SolverError
from jdframework.linalg.external_solver import external_nonnegative_qp
from jdframework.linalg.host import on_host
from jdframework.linalg.nonnegative import nonnegative_qp
from jdframework.linalg.spectral import carried_precision, rows_precision
from jdframework.linalg.unit_problem import Array, Mask

Solve = Callable[[Array, Array], Array]

_LARGE: Final = 100.0
"""Terms of a solution up to so many times the projected vector need no further look."""
_HIDDEN: Final = 1e-4
"""The share of the projected vector that the rounding of a solution's terms may reach."""
_ROUNDS: Final = 3
_SHORT: Final = 32.0
"""Times the rounding of the rows: of combinations that are shorter, relative to the rows, and that
only huge multiples make count, rounding is what they show."""

_ROUNDING: Final = 4 * float(np.finfo(np.float64).eps)


def project_on_dual_cone(
    gramian: Float[Tensor, "m m"], vectors: Float[Tensor, "k m"], solver: str = "exact"
) -> Float[Tensor, "k m"]:
    """For each ``u``, the ``v`` whose ``Jᵀv`` is the projection of ``Jᵀu`` on the dual cone of J.

    The dual cone holds the directions whose inner product with no row of ``J`` is negative. By
    Proposition 1 of Quinton & Rey (2024, arXiv 2406.16232), ``v = argmin vᵀGv`` over ``v >= u``.
    It is solved on the row-normalised Gramian, so that rows of any scale count alike.

    :param gramian: ``G = J Jᵀ`` ``[m, m]``.
    :param vectors: One ``u`` a row, ``[k, m]``.
    :param solver: ``"exact"``, or the name of a solver that qpsolvers finds installed.
    :return: One ``v`` a row, in the dtype and on the device of ``gramian``; NaN where the Gramian
        or ``u`` is not finite.
    :raises SolverError: if the problem cannot be solved to 1e-9, or the named solver fails.
    :raises ConfigError: if the named solver is not installed.

    >>> import torch
    >>> conflict = torch.tensor([[1.0, -1.0], [-1.0, 4.0]])
    >>> project_on_dual_cone(conflict, torch.eye(2))
    tensor([[1.0000, 0.2500],
            [1.0000, 1.0000]])
    """
    solve = nonnegative_qp if solver == "exact" else partial(external_nonnegative_qp, solver)
    return on_host(partial(_project, solve), gramian, vectors, shape=tuple(vectors.shape))


def _project(solve: Solve, gramian: Array, vectors: Array) -> Array:
    linear = gramian @ vectors.T
    try:
        found = solve(gramian, linear)
    except SolverError:
        vanishing = _vanishing(gramian, vectors, linear)
        if not vanishing.any():
            raise
        linear[:, vanishing] = 0.0
        found = solve(gramian, linear)
    return np.asarray(vectors + _moderated(solve, gramian, linear, found).T)


def _moderated(solve: Solve, gramian: Array, linear: Array, found: Array) -> Array:
    """Solves columns again, with a ridge, whose terms are so large that rounding is all they show.

    Rows that cancel out do so up to the rounding of the Gramian. Taken at its word, that remainder
    is a further, random row, which huge multiples of the others keep from harm. Each round has
    its ridge around the last one's solution, so that of other combinations nothing is lost.
    """
    squares = gramian.diagonal()
    # By the longest gradient alone, which is enough to see that most solutions are small.
    if (found.sum(axis=0) * squares.max() <= _LARGE * np.abs(linear).max(axis=0)).all():
        return found
    norms = np.sqrt(np.maximum(squares, 0.0))
    present = norms > 0.0
    sizes = np.abs(linear[present] / norms[present, None]).max(axis=0, initial=0.0)
    terms = norms @ np.abs(found)
    large = terms > _LARGE * sizes
    if not large.any():
        return found
    precision = carried_precision(torch.from_numpy(gramian))
    large &= rows_precision(precision) * terms > _HIDDEN * sizes
    if not large.any():
        return found
    ridge = 2 * len(gramian) * max(precision, (_SHORT * rows_precision(precision)) ** 2) * squares
    moderate = np.zeros_like(found[:, large])
    for _ in range(_ROUNDS):
        right_side = linear[:, large] - ridge[:, None] * moderate
        moderate = solve(gramian + np.diag(ridge), right_side)
    found = found.copy()
    found[:, large] = moderate
    return found


def _vanishing(gramian: Array, vectors: Array, linear: Array) -> Mask:
    """Which ``Jᵀu`` are zero but for rounding, by which the problem may be unbounded below."""
    norms = np.sqrt(np.maximum(gramian.diagonal(), 0.0))
    noise = _ROUNDING * len(norms) * np.abs(vectors) @ norms
    return np.asarray((np.abs(linear) <= norms[:, None] * noise).all(axis=0))


def cone_residual(gramian: Array, vectors: Array, solutions: Array) -> float:
    """The KKT residual of projections, relative to the rows' norms and to each ``Jᵀu``.

    :param gramian: ``[m, m]``.
    :param vectors: ``u`` ``[k, m]``.
    :param solutions: ``v`` ``[k, m]``.
    :return: The largest of: an inner product below zero, a multiplier where ``v > u``, ``v < u``.
    """
    norms = np.sqrt(np.diagonal(gramian))
    lengths = np.sqrt(np.maximum(np.einsum("ki,ij,kj->k", vectors, gramian, vectors), 0.0))
    scale = np.where(norms > 0, norms, 1.0) * np.where(lengths > 0, lengths, 1.0)[:, None]
    slopes = (solutions @ gramian) / scale
    gap = (solutions - vectors) * norms / np.where(lengths > 0, lengths, 1.0)[:, None]
    unmet = np.maximum(-slopes, 0.0).max(initial=0.0)
    loose = np.abs(np.minimum(np.maximum(gap, 0.0), np.abs(slopes))).max(initial=0.0)
    return float(max(unmet, loose, np.maximum(-gap, 0.0).max(initial=0.0)))
