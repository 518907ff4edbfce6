"""Inner products of long rows, whose rounding errors do not grow with the length."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

_WIDTH: Final = 2**14
"""How many columns a sum in single precision goes over at least: its errors are then some 1e-7."""
_WIDTH_PER_ROW: Final = 2**10
"""How many for each row, so that the blocks' products take little memory beside the rows."""
_LONG: Final = 2**16
"""From how many columns on the rows are divided: the errors of a few rows then come near 1e-6."""


def products(first: Float[Tensor, "m n"], second: Float[Tensor, "k n"]) -> Float[Tensor, "m k"]:
    """``A Bᵀ``; in single precision by blocks of columns, whose products are added in double.

    A product of matrices adds up long rows one block of the cache after the other, so that each
    entry's error grows with the length: of 1e7 columns it is some 1e-4 of the rows' norms.

    :param first: ``A``, float32 or float64.
    :param second: ``B``, of the same dtype.
    :return: In the same dtype.

    >>> ones = torch.ones(1, 2**25)  # of which single precision cannot count more than 2**24
    >>> products(ones, ones).item() == 2**25
    True
    """
    n = first.shape[1]
    if n < _LONG:
        return first @ second.T
    width = max(_WIDTH, _WIDTH_PER_ROW * max(len(first), len(second)))
    if n < 2 * width or first.dtype != torch.float32 or first.device.type == "mps":
        return first @ second.T
    count = n // width
    blocks = [
        rows[:, : count * width].unflatten(1, (count, width)).transpose(0, 1)
        for rows in (first, second)
    ]
    total = torch.bmm(blocks[0], blocks[1].mT).sum(0, dtype=torch.float64)
    if n > count * width:
        total += first[:, count * width :] @ second[:, count * width :].T
    return total.float()
