"""CAGrad: near the mean gradient, the direction that helps the worst-off objective most."""

from __future__ import annotations

from functools import partial
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from jdframework.bases import GramianWeighting
from jdframework.config import Config, Paper
from jdframework.linalg import carried_precision, on_host, project_on_dual_cone
from jdframework.linalg.min_norm import min_norm_point
from jdframework.linalg.unit_problem import unit_rows

__all__ = ["CAGrad", "CAGradConfig"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SUPPORTS: Final = 12
"""After so many supports the root is found step by step instead."""
_EXCHANGES: Final = 6
"""How often wrong signs are exchanged before another guess is made."""
_ABSENT: Final = 1e-14
"""A weight up to this is that of an objective that is not in ``w``."""
_DEPENDENT: Final = 1e-9
"""Unit rows with a smaller eigenvalue, relative to the largest, leave too few digits."""
_EXACT: Final = 2e-14
"""The rounding that conditions are checked with."""
_ROUNDING: Final = 4
"""A square of ``m`` terms below this many times ``m`` rounding errors of its terms is zero."""


class CAGradConfig(Config):
    """Settings of CAGrad."""

    c: float = Field(
        0.5,
        ge=0.0,
        description="How far the update may be from the mean gradient, in lengths of the latter; "
        "below 1 it converges to a stationary point of the mean loss.",
    )
    rescale: Literal["c", "c2"] | None = Field(
        None,
        description="'c2' divides the update by 1 + c² as the authors' code does, 'c' by 1 + c; "
        "None, as in torchjd, does not.",
    )


class CAGrad(GramianWeighting):
    """Maximises the worst objective's improvement in a ball around the mean gradient.

    .. math::
        d = \\operatorname*{argmax}_{\\lVert d - g_0 \\rVert \\le c \\lVert g_0 \\rVert}
        \\min_i g_i \\cdot d, \\qquad g_0 = \\tfrac{1}{m} \\sum_i g_i

    (Liu et al. 2021, section 3.1.) Its dual has weights ``w`` on the simplex, with
    :math:`d = g_0 + c \\lVert g_0 \\rVert J^\\top w / \\lVert J^\\top w \\rVert`. For a given
    :math:`\\mu = \\lVert J^\\top w \\rVert / (c \\lVert g_0 \\rVert)`, ``w`` is the min-norm point
    of the rows :math:`g_i + \\mu g_0`, and the length that it gives, over :math:`\\mu`, falls as
    :math:`\\mu` grows: one monotone root. The duality gap is 1e-8 or better, and up to 1e-4 where
    gradients are opposite up to an angle of 1e-6, whose difference rounding all but hides.

    No absolute constant is involved, so small gradients get the weights of large ones. torchjd
    gives zero below a Jacobian's norm of 0.01, and the authors' code adds 1e-8 to ``c`` and under
    the root. Where no direction helps all objectives (the gradients are Pareto-stationary, or one
    is zero), every ``d`` in the ball that harms none is a solution, if there is one: it is then the
    nearest to :math:`g_0`. Where :math:`g_0 = 0`, the weights are those of the mean. One objective
    gets weight ``1 + c``.

    :param c: The ball's radius, relative to the mean gradient's length; 0.5 in the authors'
        code.
    :param rescale: What the update is divided by: ``"c"`` for ``1 + c``, ``"c2"`` for ``1 + c²``.
    :raises SolverError: if a problem cannot be solved to the promised precision.

    >>> import torch
    >>> CAGrad(c=0.5)(torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    tensor([1.0590, 0.5000])
    """

    Config = CAGradConfig
    config: CAGradConfig
    paper = Paper(
        title="Conflict-Averse Gradient Descent for Multi-task Learning",
        authors="Bo Liu, Xingchao Liu, Xiaojie Jin, Peter Stone, Qiang Liu",
        venue="NeurIPS",
        year=2021,
        url="https://arxiv.org/abs/2110.14048",
    )

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """The mean's weights, plus a multiple of the dual's."""
        c = self.config.c
        weights = on_host(partial(_conflict_averse, c), gramian, shape=(len(gramian),))
        divisors = {None: 1.0, "c": 1.0 + c, "c2": 1.0 + c**2}
        return weights / divisors[self.config.rescale]


def _conflict_averse(c: float, gramian: Array) -> Array:
    m = len(gramian)
    mean = np.full(m, 1 / m)
    rounding = _ROUNDING * m * carried_precision(torch.from_numpy(gramian))
    largest = gramian.diagonal().max()
    if largest <= 0.0:
        return mean
    absent = gramian.diagonal() <= 0.0
    if absent.any():  # in half precision, products may be left of a row whose square is not
        gramian = np.where(absent | absent[:, None], 0.0, gramian)
    given, gramian = gramian, gramian / largest
    radius = c * _length(gramian, mean, rounding)
    if radius == 0.0:
        return mean
    found = _by_support(gramian, radius, c, max(_DEPENDENT, rounding / _ROUNDING))
    if found is not None:
        return np.asarray(mean + found)
    # As it was given, the Gramian still shows whether it is of single precision.
    harmless = _projected(given, mean) - mean
    if _length(gramian, harmless) >= radius:
        # Even the end of the ball harms some objective: the multiples of w are below this one.
        return np.asarray(mean + _at_radius(gramian, radius, harmless.sum()))
    shortest = _length(gramian, _min_norm(gramian), rounding)
    if shortest == 0.0 or _is_stationary(gramian, rounding):
        return np.asarray(mean + harmless)
    return np.asarray(mean + _at_radius(gramian, radius, radius / shortest))


def _is_stationary(gramian: Array, rounding: float) -> bool:
    """Whether a convex combination of the unit rows is zero but for rounding.

    Beside long rows that cancel out but for that, short ones would be the shortest combination.
    """
    cosines = unit_rows(gramian)[0]
    return _length(cosines, _min_norm(cosines), rounding) == 0.0


def _by_support(gramian: Array, radius: float, multiple: float, dependent: float) -> Array | None:
    """What is added to the mean, by which objectives are in ``w``; None if rounding spoils it.

    For a given support, ``w = p + t q`` with ``t`` one over the multiple; ``p`` and ``q`` are
    orthogonal in the Gramian, so that the length is right at ``t² = pᵀGp / (radius² - qᵀGq)``.
    Whatever then has the wrong sign is exchanged, which nearly always ends after one to three
    times. Where it does not, that ``t`` has a support of its own, and so on.

    :param multiple: The first guess.
    :param dependent: Unit rows with an eigenvalue below this are not solved for.
    """
    with_mean = gramian.mean(axis=1)
    # Independent gradients are often all in w, which is quickly seen.
    every = np.ones(len(gramian), dtype=np.bool_)
    weights, t = _exchanged(gramian, with_mean, radius, every, dependent)
    if weights is not None:
        return np.asarray(weights / t)
    low, high = radius, np.inf  # no row is longer than one
    for _ in range(_SUPPORTS):
        dual = _dual(gramian, multiple)
        weights, t = _exchanged(gramian, with_mean, radius, dual > _ABSENT, dependent)
        if weights is not None:
            return np.asarray(weights / t)
        if multiple * _length(gramian, dual) >= radius:
            high = multiple
        else:
            low = multiple
        between = 4 * low if high == np.inf else np.sqrt(low * high)
        multiple = 1 / t if low * t < 1.0 < high * t else between
    return None


def _exchanged(
    gramian: Array, with_mean: Array, radius: float, inside: Mask, dependent: float
) -> tuple[Array | None, float]:
    """``w`` and ``t``, from a support that is nearly right; without success None and some ``t``."""
    first = 0.0
    for _ in range(_EXCHANGES):
        support = np.flatnonzero(inside)
        line = _line(gramian[support[:, None], support], with_mean[support], radius, dependent)
        if line is None:
            break
        t, start, slope = line
        weights = np.zeros(len(gramian))
        weights[support] = start + t * slope
        wanted = _wanted(gramian, with_mean, weights, t)
        if wanted is None:
            return weights, t
        inside = wanted
        first = first or t
    return None, first


def _line(
    gramian: Array, with_mean: Array, radius: float, dependent: float
) -> tuple[float, Array, Array] | None:
    """``t``, ``p`` and ``q`` of a support; None if there are none, or hardly a digit of them."""
    from scipy.linalg.lapack import dpocon, dposv

    norms = np.sqrt(gramian.diagonal())
    if not norms.size or not norms.min() > 0.0:
        return None
    unit = gramian / norms / norms[:, None]
    right = np.stack([np.ones(len(norms)), with_mean], axis=1) / norms[:, None]
    factor, solved, failed = dposv(unit.T, right)
    if failed or not dpocon(factor, np.abs(unit).sum(axis=0).max())[0] > dependent:
        return None
    ones, mean = (solved / norms[:, None]).T
    slope = mean.sum() / ones.sum() * ones - mean
    room = radius**2 - slope @ gramian @ slope
    if not room > 0.0:
        return None
    return float(np.sqrt(1 / ones.sum() / room)), ones / ones.sum(), slope


def _wanted(gramian: Array, with_mean: Array, weights: Array, t: float) -> Mask | None:
    """Which objectives the support should have; None if ``w`` is the optimum.

    It is if ``Gw + t Gb`` is smallest, and the same, on the support of ``w >= 0``.
    """
    slopes = gramian @ weights + t * with_mean
    unsure = _EXACT * (np.abs(gramian) @ np.abs(weights) + t * np.abs(with_mean))
    inside = weights > 0.0
    level = (slopes - unsure)[inside].max()
    lowest = (slopes - unsure).min()
    if level <= lowest + 2 * unsure.max() and not (weights < 0.0).any():
        return None
    return np.asarray(inside | (slopes + unsure < level))


def _at_radius(gramian: Array, radius: float, most: float) -> Array:
    """The multiple of the dual's ``w`` at which ``|Jᵀ(multiple of w)|`` is the radius.

    :param most: Where that length is the radius or more.
    """
    from scipy.optimize import brentq

    def excess(log_multiple: float) -> float:
        multiple = np.exp(log_multiple)
        return float(multiple * _length(gramian, _dual(gramian, multiple)) / radius - 1.0)

    low = np.log(radius)  # no row is longer than one, so the multiple is at least the radius
    high = max(low, np.log(most))
    if excess(low) >= 0.0:
        root = low
    elif excess(high) <= 0.0:
        root = high
    else:
        root = brentq(excess, low, high, xtol=1e-15, rtol=1e-15)
    weights = _dual(gramian, np.exp(root))
    length = _length(gramian, weights)
    return np.asarray(weights * (radius / length if length > 0.0 else np.exp(root)))


def _dual(gramian: Array, multiple: float) -> Array:
    """The min-norm point of the rows ``g_i + g_0 / multiple``, which shrinks no small row."""
    with_mean = gramian.mean(axis=1) / multiple
    mean_square = with_mean.mean() / multiple
    return _min_norm(gramian + with_mean + with_mean[:, None] + mean_square)


def _length(gramian: Array, weights: Array, rounding: float = 0.0) -> float:
    """``|Jᵀw|``; zero where ``rounding`` may be all there is."""
    square = float(weights @ gramian @ weights)
    terms = float(np.abs(weights) @ np.abs(gramian) @ np.abs(weights))
    return float(np.sqrt(square)) if square > rounding * terms else 0.0


def _min_norm(gramian: Array) -> Array:
    return min_norm_point(gramian)


def _projected(gramian: Array, weights: Array) -> Array:
    """The weights of the nearest direction that harms no objective."""
    rows = torch.from_numpy(weights[None])
    return np.asarray(project_on_dual_cone(torch.from_numpy(gramian), rows)[0].numpy())
