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
from jdframework.linalg.min_norm import min_norm_point
from jdframework.linalg.spectral import carried_precision
from jdframework.linalg.unit_problem import Array

_STATIONARY: Final = 8
"""Times ``m`` rounding errors: a combination of unit rows whose square is below that is zero."""
_EPSILON: Final = float(np.finfo(np.float64).eps)
_ORDINARY: Final = 8
"""After so many steps it is first found out whether there is a solution at all."""
_STEPS: Final = 500
_AIM: Final = 1e-13
"""The residual, beyond rounding, at which the iteration ends."""
_ACCEPTED: Final = 1e-9
"""The largest residual, beyond rounding, that is handed back."""
_TOWARDS_ZERO: Final = 0.99
"""The largest share of itself that an entry loses in one step."""
_HARDLY: Final = 1e-5
"""A rounding error up to this share of an equation does not hide that it is unsolved."""
_POLISHES: Final = 4
"""How often; full steps of Newton's method double the digits."""
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
    present = gramian.diagonal() > 0.0
    if present.all():
        return _of_present(alpha, gramian, weights)
    solution = np.full(len(gramian), np.inf)
    if present.any():
        solution[present] = _of_present(alpha, gramian[np.ix_(present, present)], weights[present])
    return solution


def _of_present(alpha: float, gramian: Array, weights: Array) -> Array:
    power = 1.0 / alpha
    norms = np.sqrt(gramian.diagonal())
    cosines = gramian / norms / norms[:, None]
    logarithms = np.log(norms)
    alone = (np.log(weights) - 2.0 * logarithms) / (1.0 + power)
    scale = alone + logarithms
    relative = np.exp(scale - scale.max())
    weights = relative**2  # in these units, up to a factor
    matrix = cosines * relative * relative[:, None]
    point, reached = _newton(matrix, weights, power, _ORDINARY, _start(matrix, weights, power))
    if not (reached <= _AIM and _is_far_from_stationary(cosines, relative * point)):
        if _is_stationary(gramian, cosines):
            return np.full(len(cosines), np.inf)
        if not reached <= _AIM:
            matrix = _semidefinite(cosines) * relative * relative[:, None]
            point = _to_the_end(matrix, weights, power, point)
    return np.asarray(np.exp(alone) * point)


def _is_far_from_stationary(cosines: Array, direction: Array) -> bool:
    """Whether ``y > 0`` shows that no convex combination of the unit rows is nearly zero.

    Its product with each row is at least ``min(Cy)``, so none is shorter than that over ``|Jᵀy|``.
    What is far enough for single precision is so for double.
    """
    products = cosines @ direction
    least = float(products.min())
    unsure = _STATIONARY * len(cosines) * float(np.finfo(np.float32).eps)
    return least > 0.0 and least * least > unsure * float(direction @ products)


def _is_stationary(gramian: Array, cosines: Array) -> bool:
    shortest = min_norm_point(cosines)
    precision = carried_precision(torch.from_numpy(gramian))
    return bool(shortest @ cosines @ shortest <= _STATIONARY * len(cosines) * precision)


def _semidefinite(cosines: Array) -> Array:
    """Without the negative eigenvalues that rounding has made."""
    values, vectors = np.linalg.eigh(cosines)
    return cosines if values[0] >= 0.0 else (vectors * np.maximum(values, 0.0)) @ vectors.T


def _to_the_end(matrix: Array, weights: Array, power: float, point: Array) -> Array:
    """``z`` with its equations solved as well as rounding allows, from a first one."""
    if not np.isfinite(point).all():
        point = _start(matrix, weights, power)
    point, reached = _newton(matrix, weights, power, _STEPS, point)
    if not reached <= _ACCEPTED:
        point, reached = _polished(matrix, weights, power, point)
    if not reached <= _ACCEPTED:
        raise SolverError(
            f"no fair weights were found: the residual of their equations is {reached:.1e} "
            f"(m = {len(matrix)}, alpha = {1.0 / power:g}, "
            f"condition number {np.linalg.cond(matrix):.1e})"
        )
    return point


def _start(matrix: Array, weights: Array, power: float) -> Array:
    """The same number for all, which solves the sum of the equations."""
    with np.errstate(all="ignore"):  # the sum is zero where the rows cancel out
        return np.full(len(weights), (weights.sum() / matrix.sum()) ** (1.0 / (1.0 + power)))


def _newton(
    matrix: Array, weights: Array, power: float, steps: int, point: Array
) -> tuple[Array, float]:
    """``z > 0`` with ``(Hz)_i = w_i z_i^(-power)``, of ``w`` the diagonal of ``H`` (or nearly).

    :return: ``z`` after at most so many steps from ``point``, and the residual that it reaches.
    """
    sizes = np.abs(matrix)
    with np.errstate(all="ignore"):  # powers may overflow: the residual will tell
        for left in range(steps, -1, -1):
            product, pull = matrix @ point, weights * point**-power
            spread = sizes @ point
            reached = _residual(product, pull, spread)
            if not left or not reached > _AIM:
                break
            unsure = len(point) * _EPSILON * float(point @ spread)
            point = point * (1.0 + _step(matrix, weights, power, point, product, pull, unsure))
    return point, reached


def _polished(matrix: Array, weights: Array, power: float, point: Array) -> tuple[Array, float]:
    """Solves the equations that rounding hardly touches once more, the other entries as they are.

    Rows that nearly cancel out have large entries, whose rounding errors each step of all entries
    carries over to the other rows.

    :return: ``z``, and the residual that it reaches.
    """
    sizes = np.abs(matrix)
    with np.errstate(all="ignore"):
        for _ in range(_POLISHES):
            product, pull, spread = matrix @ point, weights * point**-power, sizes @ point
            sure = 4 * len(point) * _EPSILON * spread <= _HARDLY * pull
            if not sure.any():
                break
            own, near, strength = matrix[np.ix_(sure, sure)], point[sure], pull[sure]
            downhill = near * (strength - product[sure])
            curvature = own * near * near[:, None]
            point = point.copy()
            point[sure] = near * (1.0 + _direction(curvature, power * near * strength, downhill))
        return point, _residual(matrix @ point, weights * point**-power, sizes @ point)


def _step(
    matrix: Array,
    weights: Array,
    power: float,
    point: Array,
    product: Array,
    pull: Array,
    unsure: float,
) -> Array:
    """By which share of itself each entry changes.

    :param unsure: The rounding error of the objective, where rows nearly cancel out. A decrease
        below that cannot be seen.
    """
    barrier = point * pull
    downhill = barrier - point * product
    direction = _direction(matrix * point * point[:, None], power * barrier, downhill)
    decrement = float(downhill @ direction)
    size = min(1.0, _TOWARDS_ZERO / max(float(-direction.min()), _TOWARDS_ZERO))
    if decrement <= max(_LOCAL * float(barrier.sum()), unsure):
        return np.asarray(size * direction)
    before = _objective(matrix, weights, power, point)
    while size > _LOCAL:
        after = _objective(matrix, weights, power, point * (1.0 + size * direction))
        if after <= before - 0.1 * size * decrement:
            break
        size /= 2.0
    return np.asarray(size * direction)


def _direction(curvature: Array, diagonal: Array, downhill: Array) -> Array:
    """``(A + D)⁻¹ b``, in units in which the diagonal is one; the first argument is overwritten."""
    from scipy.linalg.lapack import dposv

    curvature.flat[:: len(diagonal) + 1] += diagonal
    units = np.sqrt(curvature.diagonal())
    curvature /= units
    curvature /= units[:, None]
    solution, failed = dposv(curvature.T, downhill / units)[1:]
    if failed:  # rounding has made it indefinite, or there is no solution
        try:
            solution = np.linalg.solve(curvature, downhill / units)
        except np.linalg.LinAlgError:
            return np.full_like(downhill, np.nan)
    return np.asarray(solution / units)


def _objective(matrix: Array, weights: Array, power: float, point: Array) -> float:
    exponent = 1.0 - power
    barrier = np.log(point) if exponent == 0.0 else point**exponent / exponent
    return float(0.5 * point @ matrix @ point - weights @ barrier)


def _residual(product: Array, pull: Array, sizes: Array) -> float:
    rounding = 4 * len(product) * _EPSILON * sizes
    return float(((np.abs(product - pull) - rounding) / pull).max())


def fair_residual(matrix: Array, weights: Array, power: float, point: Array) -> float:
    """The largest ``|(Hz)_i z_i^power / w_i - 1|``, less what rounding its terms explains.

    :param matrix: ``H`` ``[m, m]``.
    :param weights: ``w`` ``[m]``.
    :param power: ``1 / alpha``.
    :param point: ``z`` ``[m]``.
    """
    return _residual(matrix @ point, weights * point**-power, np.abs(matrix) @ point)
