"""Noisy curves made readable."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def smoothed(values: NDArray[np.float64], share: float = 0.06) -> NDArray[np.float64]:
    """The mean over a window around each entry; the window shrinks at the ends.

    :param values: A curve without NaN, ``[t]``.
    :param share: The window's width as a share of the curve's length.

    >>> smoothed(np.array([0.0, 3.0, 0.0]), share=0.6)
    array([1.5, 1. , 1.5])
    """
    half = max(1, round(share * len(values) / 2))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, end = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    means: NDArray[np.float64] = (sums[end] - sums[first]) / (end - first)
    return means


def thinned(values: NDArray[np.float64], most: int = 300) -> NDArray[np.intp]:
    """Which entries to draw: ``most`` of them, evenly spread, the first and the last among them."""
    count = min(len(values), most)
    return np.linspace(0, len(values) - 1, count).round().astype(np.intp)
