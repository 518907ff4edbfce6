"""The Gramian of dependent rows, as the product of a factor with no more rows than its rank."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from jdframework.linalg.unit_problem import Array, ridge

_DEPENDENT: Final = 1e-6
"""A row whose squared distance from the span of the others is below this counts as dependent."""
_NOISE: Final = 4 * _DEPENDENT
"""The largest entry that the rounding of single precision is expected to leave."""
_CLEAR: Final = 1e-4
"""Eigenvalues above this share of the largest are none of single precision's rounding."""
_FEW: Final = 16
"""Up to so many rows all eigenvalues take no longer than the range of the matrix."""
_EITHER_SIGN: Final = 2.0
"""How many times as large as the most negative eigenvalue those may be that rounding has made."""


def low_rank_factor(unit: Array) -> Array | None:
    """``F`` with ``FᵀF = C`` but for rounding, by Cholesky with pivots.

    What ``F`` leaves of a positive semi-definite matrix is positive semi-definite. Where it leaves
    entries of either sign and of no more than single precision's rounding, they are that: a
    Gramian of dependent rows from single precision is indefinite, and ``FᵀF`` is not.

    :param unit: ``C`` ``[m, m]`` with a unit diagonal.
    :return: ``[r, m]``, with as many rows as ``C`` has independent ones; None if ``F`` leaves more
        than rounding, so that near-dependence has to be taken into account.
    """
    from scipy.linalg.lapack import dpstrf

    m = len(unit)
    packed, pivots, rank, _ = dpstrf(unit, tol=_DEPENDENT, lower=1)
    order = pivots - 1
    factor = np.empty((rank, m))
    factor[:, order] = np.tril(packed[:, :rank]).T
    others = order[rank:]
    part = factor[:, others]
    left = unit[others[:, None], others] - part.T @ part
    size = np.abs(left).max(initial=0.0)
    if size <= 4 * ridge(m) or (size <= _NOISE and -8 * left.diagonal().min() >= size):
        return factor
    return None


class Range(NamedTuple):
    """The rows' own space, of a Gramian ``C = FᵀF`` of dependent unit rows, where ``Fᵀ = QR``."""

    factor: Array
    """``F`` ``[r, m]``."""
    basis: Array
    """``Q`` ``[m, r]``, orthonormal columns, in the space of the weights."""
    upper: Array
    """``R`` ``[r, r]``."""

    def solved(self, right: Array) -> Array:
        """``C⁺ b``.

        :param right: ``b`` ``[m]``, or several ``[m, k]``.
        """
        from scipy.linalg.lapack import dtrtrs

        half = dtrtrs(self.upper, self.basis.T @ right)[0]
        return np.asarray(self.basis @ dtrtrs(self.upper, half, trans=1)[0])


def range_of_dependent(unit: Array, least: float) -> Range | None:
    """The range of a matrix whose eigenvalues are clearly zero or clearly not.

    It takes a fraction of the time of all eigenvalues.

    :param unit: ``C`` ``[m, m]`` with a unit diagonal, but for rows of zeros.
    :param least: What the smallest eigenvalue that is not zero has to be above, relative to the
        largest, as it is estimated.
    :return: None if ``C`` is regular, or if it is not clear which eigenvalues are zero.
    """
    from scipy.linalg.lapack import dpocon

    factor = low_rank_factor(unit)
    if factor is None or not 0 < len(factor) < len(unit):
        return None
    basis, upper = np.linalg.qr(factor.T)
    size = np.abs(factor @ factor.T).sum(axis=0).max()
    return Range(factor, basis, upper) if dpocon(upper, size)[0] > least else None


def semidefinite(unit: Array, linear: Array) -> tuple[Array, Array, Array]:
    """The problem, bounded below, and the lower Cholesky factor of its matrix plus ridge.

    A Gramian from single precision may have negative eigenvalues beyond rounding in double. Its
    rounding makes as many that are as large and positive, each of which looks like one more
    gradient. All that are no larger than twice the most negative one are left out, and of
    ``linear`` what is not in the range of the others.

    :param unit: ``[m, m]``.
    :param linear: ``[m, k]``.
    :return: ``[m, m]``, ``[m, k]`` and ``[m, m]``.
    """
    try:
        return unit, linear, _factor(unit)
    except np.linalg.LinAlgError:
        own = range_of_dependent(unit, _CLEAR) if len(unit) > _FEW else None
        if own is not None:
            unit = own.factor.T @ own.factor
            return unit, own.basis @ (own.basis.T @ linear), _factor(unit)
        values, vectors = np.linalg.eigh(unit)
        kept = values > max(ridge(len(unit)), -_EITHER_SIGN * values[0])
        basis = vectors[:, kept]
        unit = (basis * values[kept]) @ basis.T
        return unit, basis @ (basis.T @ linear), _factor(unit)


def _factor(unit: Array) -> Array:
    shifted = unit.copy()
    shifted.flat[:: len(unit) + 1] += ridge(len(unit))
    return np.asarray(np.linalg.cholesky(shifted))
