"""What single precision can hold of a Gramian, and what is done with rows of which it cannot.

The squares of gradients shorter than 1e-19 or longer than 1e19 leave the range of float32, although
the gradients do not. Such rows are multiplied by powers of two, which changes no digit; the Gramian
comes in float64 then, whose range holds all products of single-precision numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_SMALLEST: Final = 2.0**-80
"""A square that is smaller may be a sum of products too small for single precision."""
_LARGEST: Final = 2.0**126
_NEAR: Final = 30
"""Rows whose largest entry is no further from one, in powers of two, stay as they are."""
_FURTHEST: Final = 126
"""The largest shift: the factor, and what it makes of a row, have to be numbers as well."""


def misfits(squares: Float[Tensor, " m"]) -> Bool[Tensor, " m"] | None:
    """Which rows may have lost digits, or all, as their squares tell; None if none has.

    :param squares: The diagonal of a Gramian that was computed in single precision.
    """
    if squares.dtype != torch.float32 or squares.device.type == "mps" or not len(squares):
        return None
    smallest, largest = torch.stack(squares.aminmax()).tolist()
    if smallest >= _SMALLEST and largest <= _LARGEST:
        return None
    return ~((squares >= _SMALLEST) & (squares <= _LARGEST))


def shifts_of(largest: Float[Tensor, " m"]) -> Int[Tensor, " m"]:
    """Powers of two that bring rows near one; 0 for rows that are near enough, zero or not finite.

    :param largest: Each row's largest entry, by its modulus.
    """
    exponents = torch.frexp(largest).exponent.clamp(-_FURTHEST, _FURTHEST)
    return torch.where(largest.isfinite() & (exponents.abs() > _NEAR), -exponents, 0)


def largest_entries(blocks: Sequence[Float[Tensor, "m *shape"]]) -> Float[Tensor, " m"]:
    """Each row's largest entry, by its modulus, in single precision at least.

    :param blocks: Of a Jacobian.
    """
    filled = [block.flatten(1) for block in blocks if block.numel()]
    if not filled:
        return torch.zeros(len(blocks[0]), device=blocks[0].device)
    found = [torch.maximum(rows.amax(1), -rows.amin(1)).float() for rows in filled]
    return torch.stack(found).amax(0)


def shifted(rows: Float[Tensor, "m n"], shifts: Int[Tensor, " m"]) -> Float[Tensor, "m n"]:
    """Rows times powers of two.

    :param rows: Float32.
    :param shifts: Each row's exponent.
    """
    return rows * torch.exp2(shifts.to(rows.dtype)).unsqueeze(1)


def unshifted(
    product: Float[Tensor, "m k"], left: Int[Tensor, " m"], right: Int[Tensor, " k"]
) -> Float[Tensor, "m k"]:
    """The inner products of rows, from those of shifted rows, in float64.

    :param product: Of the shifted rows.
    :param left: The shifts of the one side.
    :param right: Of the other.
    """
    return torch.ldexp(product.double(), -(left.unsqueeze(1) + right))


def narrowed(
    wide: Float[Tensor, "m k"], magnitudes: Float[Tensor, "..."] | None = None
) -> Float[Tensor, "m k"]:
    """Inner products in float32 where its range suffices, and else in float64 with its digits.

    The digits tell methods what precision the entries carry.

    :param wide: In float64, from rows of single precision.
    :param magnitudes: What has to be in range: the diagonal of a Gramian, beside which what is
        out of range counts for nothing; all entries when None.
    """
    sizes = (wide if magnitudes is None else magnitudes).abs()
    fits = (sizes == 0) | ((sizes >= 2.0**-100) & (sizes <= _LARGEST)) | ~sizes.isfinite()
    if bool(fits.all()):
        return wide.float()
    mantissas, exponents = torch.frexp(wide)
    return torch.ldexp(mantissas.float().double(), exponents)
