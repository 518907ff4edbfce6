"""The Gramian of dependent rows, as the product of a factor with no more rows than its rank."""

from __future__ import annotations

from typing import Final

import numpy as np

from jdframework.linalg.unit_problem import Array, ridge

_DEPENDENT: Final = 1e-6
"""A row whose squared distance from the span of the others is below this counts as dependent."""
_NOISE: Final = 4 * _DEPENDENT
"""The largest entry that the rounding of single precision is expected to leave."""


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
