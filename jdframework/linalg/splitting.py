"""Which variables of non-negative quadratic programs are positive: a guess, all columns at once.

The alternating direction method of multipliers (Boyd et al. 2011, section 5.2) takes one product of
matrices a step, in single precision. How fast it is hangs on a penalty for each row, which all
columns share: with the ratio of the row's slopes to its values the two sides change at one pace,
however thin the cone of the solutions is. The ratios become known on the way.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from jdframework.linalg.unit_problem import Array, Mask

_Single = NDArray[np.float32]

_FIRST: Final = 0.1
"""The penalty of all rows, before anything is known of them."""
_LEAST: Final = 1e-4
_MOST: Final = 1e3
_RELAXATION: Final = 1.9
_TINY: Final = 1e-30


class Splitting:
    """The method's state, for ``min ½ yᵀHy + qᵀy`` over ``y >= 0``.

    With ``w`` the iterate in units in which each penalty is one, ``max(w, 0)`` are the values and
    ``max(-w, 0)`` the slopes; a step is ``w ← B|w| + (1 - r/2) w - b`` (a reflected resolvent).

    :param unit: ``H`` ``[m, m]``, positive semi-definite with a unit diagonal.
    :param linear: ``[m, k]``, one ``q`` a column.
    """

    def __init__(self, unit: Array, linear: Array) -> None:
        self._unit = unit
        self._linear = linear
        self._penalties = np.full(len(unit), _FIRST)
        self._iterate: _Single = np.zeros(linear.shape, np.float32, order="F")
        self._operator: tuple[_Single, _Single] | None = None

    @property
    def free(self) -> Mask:
        """``[m, k]``: which variables are positive."""
        return self._iterate > 0.0

    @property
    def point(self) -> Array:
        """``[m, k]``."""
        values = np.maximum(self._iterate, 0.0).astype(np.float64)
        return np.asarray(values / np.sqrt(self._penalties)[:, None])

    def keep(self, columns: Mask) -> None:
        """Goes on with these alone.

        :param columns: ``[k]``.
        """
        self._operator = None
        self._linear = self._linear[:, columns]
        self._iterate = np.asfortranarray(self._iterate[:, columns])

    def advance(self, steps: int) -> None:
        """So many steps.

        :param steps: One product of ``[m, m]`` and ``[m, k]`` each.
        """
        from scipy.linalg.blas import sgemm

        if self._operator is None:
            self._operator = self._prepared()
        matrix, offset = self._operator
        iterate = self._iterate
        modulus = np.empty_like(iterate)
        for _ in range(steps):
            np.abs(iterate, out=modulus)
            iterate = sgemm(
                1.0, matrix, modulus, beta=1.0 - _RELAXATION / 2, c=iterate, overwrite_c=1
            )
            iterate -= offset
        self._iterate = iterate

    def adapt(self) -> None:
        """Takes the ratio of each row's slopes to its values for its penalty."""
        roots = np.sqrt(self._penalties).astype(np.float32)[:, None]
        values = np.maximum(self._iterate, 0.0) / roots
        slopes = np.minimum(self._iterate, 0.0) * roots
        ratios = np.linalg.norm(slopes, axis=1) / np.maximum(np.linalg.norm(values, axis=1), _TINY)
        self._operator = None
        self._penalties = np.clip(ratios, _LEAST, _MOST).astype(np.float64)
        roots = np.sqrt(self._penalties).astype(np.float32)[:, None]
        self._iterate = np.asfortranarray(values * roots + slopes / roots)

    def _prepared(self) -> tuple[_Single, _Single]:
        """``B`` and ``b``."""
        scale = 1.0 / np.sqrt(self._penalties)
        matrix = self._unit * scale
        matrix *= scale[:, None]
        matrix.flat[:: len(scale) + 1] += 1.0
        inverse = np.asfortranarray(_inverse(matrix), np.float32)
        inverse *= np.float32(_RELAXATION)
        offset = inverse @ np.asfortranarray(self._linear * scale[:, None], np.float32)
        inverse.flat[:: len(scale) + 1] -= np.float32(_RELAXATION / 2)
        return inverse, np.asfortranarray(offset)


def _inverse(definite: Array) -> Array:
    """Of a symmetric matrix, which is overwritten."""
    from scipy.linalg.lapack import dpotrf, dpotri

    factor = dpotrf(definite.T, lower=1, clean=0, overwrite_a=1)[0]
    half = dpotri(factor, lower=1, overwrite_c=1)[0]
    return np.asarray(np.tril(half) + np.tril(half, -1).T)
