"""Fair weights: a quadratic with a separable barrier, minimised by a damped Newton method."""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jdframework.errors import SolverError
from jdframework.linalg.host import on_host
from jdframework.linalg.min_norm import min_norm_weights
from jdframework.linalg.spectral import carried_precision
from jdframework.linalg.unit_problem import Array

_STATIONARY: Final = 8
"""Times ``m`` rounding errors: a combination of unit rows whose square is below that is zero."""
_STEPS: Final = 500
_AIM: Final = 1e-13
"""The residual, beyond rounding, at which the iteration ends."""
_ACCEPTED: Final = 1e-9
"""The largest residual, beyond rounding, that is handed back."""
_TOWARDS_ZERO: Final = 0.99
"""The largest share of itself that an entry loses in one step."""
_LOCAL: Final = 1e-9
"""A decrement below this share of the barrier means full steps: the decrease drowns in rounding."""


def fair_weights(
    gramian: Float[Tensor, "m m"], weights: Float[Tensor, " m"], alpha: float
) -> Float[Tensor, " m"]:
    """``argmin ½ xᵀGx - Σ w_i φ(x_i)`` over ``x > 0``, where ``φ'(x) = x^(-1/alpha)``.

    In other words ``(Gx)_i = w_i x_i^(-1/alpha)``. With ``alpha = 1``, ``φ`` is the logarithm: the
    Nash bargaining solution (arXiv 2202.01017); other values give alpha-fairness (arXiv
    2402.15638). It is solved in units in which each row alone would have the solution one, by
    Newton steps relative to ``x``, halved until they go down.

    :param gramian: ``G`` ``[m, m]``.
    :param weights: ``w`` ``[m]``, positive.
    :param alpha: Positive.
    :return: ``[m]``; NaN where an input is not finite. No finite solution exists for a zero row,
        which gets infinity and concerns no other, nor where a convex combination of the others is
        zero (they are Pareto-stationary): all entries are then infinite.
    :raises SolverError: if the equations cannot be solved to 1e-9.

    >>> fair_weights(torch.tensor([[4.0, 0.0], [0.0, 0.25]]), torch.ones(2), alpha=1.0)
    tensor([0.5000, 2.0000])
    """
    return on_host(partial(_fair_weights, alpha), gramian, weights, shape=(len(gramian),))


def _fair_weights(alpha: float, gramian: Array, weights: Array) -> Array:
    solution = np.full(len(gramian), np.inf)
    present = gramian.diagonal() > 0.0
    if present.any():
        solution[present] = _of_present(alpha, gramian[np.ix_(present, present)], weights[present])
    return solution


def _of_present(alpha: float, gramian: Array, weights: Array) -> Array:
    precision = carried_precision(torch.from_numpy(gramian))
    norms = np.sqrt(gramian.diagonal())
    cosines = _semidefinite(gramian / norms / norms[:, None])
    shortest = min_norm_weights(torch.from_numpy(cosines)).numpy()
    if shortest @ cosines @ shortest <= _STATIONARY * len(cosines) * precision:
        return np.full(len(cosines), np.inf)
    power = 1.0 / alpha
    alone = (np.log(weights) - 2.0 * np.log(norms)) / (1.0 + power)
    scale = alone + np.log(norms)
    relative = np.exp(scale - scale.max())
    matrix = cosines * relative * relative[:, None]
    return np.asarray(np.exp(alone) * _newton(matrix, relative**2, power))


def _semidefinite(cosines: Array) -> Array:
    """Without the negative eigenvalues that rounding has made."""
    values, vectors = np.linalg.eigh(cosines)
    return cosines if values[0] >= 0.0 else (vectors * np.maximum(values, 0.0)) @ vectors.T


def _newton(matrix: Array, weights: Array, power: float) -> Array:
    """``z > 0`` with ``(Hz)_i = w_i z_i^(-power)``, of ``w`` the diagonal of ``H`` (or nearly)."""
    point = np.full(len(weights), (weights.sum() / matrix.sum()) ** (1.0 / (1.0 + power)))
    with np.errstate(all="ignore"):  # powers may overflow: the residual will tell
        reached = fair_residual(matrix, weights, power, point)
        for _ in range(_STEPS):
            if not reached > _AIM:
                break
            point = point * (1.0 + _step(matrix, weights, power, point))
            reached = fair_residual(matrix, weights, power, point)
    if not reached <= _ACCEPTED:
        raise SolverError(
            f"no fair weights were found: the residual of their equations is {reached:.1e} "
            f"(m = {len(matrix)}, alpha = {1.0 / power:g}, "
            f"condition number {np.linalg.cond(matrix):.1e})"
        )
    return point


def _step(matrix: Array, weights: Array, power: float, point: Array) -> Array:
    """By which share of itself each entry changes."""
    barrier = weights * point ** (1.0 - power)
    downhill = barrier - point * (matrix @ point)
    curvature = matrix * point * point[:, None] + np.diag(power * barrier)
    units = np.sqrt(curvature.diagonal())
    direction = np.linalg.solve(curvature / units / units[:, None], downhill / units) / units
    decrement = float(downhill @ direction)
    size = min(1.0, _TOWARDS_ZERO / max(float(-direction.min()), _TOWARDS_ZERO))
    if decrement <= _LOCAL * float(barrier.sum()):
        return np.asarray(size * direction)
    before = _objective(matrix, weights, power, point)
    while size > _LOCAL:
        after = _objective(matrix, weights, power, point * (1.0 + size * direction))
        if after <= before - 0.1 * size * decrement:
            break
        size /= 2.0
    return np.asarray(size * direction)


def _objective(matrix: Array, weights: Array, power: float, point: Array) -> float:
    exponent = 1.0 - power
    barrier = np.log(point) if exponent == 0.0 else point**exponent / exponent
    return float(0.5 * point @ matrix @ point - weights @ barrier)


def fair_residual(matrix: Array, weights: Array, power: float, point: Array) -> float:
    """The largest ``|(Hz)_i z_i^power / w_i - 1|``, less what rounding its terms explains.

    :param matrix: ``H`` ``[m, m]``.
    :param weights: ``w`` ``[m]``.
    :param power: ``1 / alpha``.
    :param point: ``z`` ``[m]``.
    """
    factor = point**power / weights
    rounding = 4 * len(point) * np.finfo(np.float64).eps * (np.abs(matrix) @ point) * factor
    return float((np.abs((matrix @ point) * factor - 1.0) - rounding).max())
