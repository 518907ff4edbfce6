"""Gramians of Jacobians that come in blocks, and what is read off them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from jdframework.linalg.products import products
from jdframework.linalg.single import (
    largest_entries,
    misfits,
    narrowed,
    shifted,
    shifts_of,
    unshifted,
)


def gramian(jacobians: Sequence[Float[Tensor, "m *shape"]]) -> Float[Tensor, "m m"]:
    """``J Jᵀ`` of a Jacobian given as one block per parameter, without joining the blocks.

    Half precision is accumulated in float32, so that it neither overflows nor loses digits. Where
    squares of rows of single precision would leave its range, the Gramian comes in float64.

    :param jacobians: At least one block, each ``[m, *shape]``.
    :return: ``[m, m]``, symmetric, float32 or float64.
    :raises ValueError: if there is no block, or the blocks differ in ``m``.

    >>> gramian([torch.tensor([[1.0, 0.0], [1.0, 2.0]])])
    tensor([[1., 1.],
            [1., 5.]])
    >>> gramian([torch.tensor([[1e-30]])])
    tensor([[1.0000e-60]], dtype=torch.float64)
    """
    m = _rows_in(jacobians)
    total = _summed(jacobians, jacobians)
    suspects = misfits(total.diagonal())
    if suspects is None:
        return total
    found = shifts_of(largest_entries([block[suspects] for block in jacobians]))
    if not bool(found.any()):
        return total
    shifts = found.new_zeros(m)
    shifts[suspects] = found
    return unshifted(_summed(jacobians, jacobians, shifts, shifts), shifts, shifts)


def cross_gramian(
    first: Sequence[Float[Tensor, "m *shape"]], second: Sequence[Float[Tensor, "m *shape"]]
) -> Float[Tensor, "m m"]:
    """``J₁ J₂ᵀ`` of two Jacobians given as blocks, each pair of blocks of one parameter.

    :param first: At least one block, each ``[m, *shape]``.
    :param second: As many blocks of the same shapes.
    :return: ``[m, m]``, float32, or float64 where an entry leaves its range.
    :raises ValueError: if there is no block, or the blocks do not match.
    """
    _rows_in([*first, *second])
    return inner_products(first, second)


def inner_products(
    first: Sequence[Float[Tensor, "m *shape"]], second: Sequence[Float[Tensor, "k *shape"]]
) -> Float[Tensor, "m k"]:
    """:func:`cross_gramian` of Jacobians with as many rows as they have, without a check.

    :param first: At least one block, each ``[m, *shape]``.
    :param second: As many blocks of the same shapes, each ``[k, *shape]``.
    """
    total = _summed(first, second)
    if misfits(total.abs().flatten()) is None:
        return total
    left, right = (shifts_of(largest_entries(blocks)) for blocks in (first, second))
    if not bool(left.any() or right.any()):
        return total
    return narrowed(unshifted(_summed(first, second, left, right), left, right))


def _rows_in(blocks: Sequence[Tensor]) -> int:
    """How many rows a Jacobian has."""
    if not blocks:
        raise ValueError("a Gramian needs at least one block of the Jacobian")
    rows = {block.shape[0] for block in blocks}
    if len(rows) > 1:
        raise ValueError(f"the blocks of one Jacobian differ in their rows: {sorted(rows)}")
    return len(blocks[0])


def _summed(
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    left: Tensor | None = None,
    right: Tensor | None = None,
) -> Float[Tensor, "m k"]:
    """The blocks' products; of rows that are shifted, if their shifts are given."""
    total: Tensor | None = None
    for a, b in zip(first, second, strict=True):
        one = _matrix(a, left)
        product = products(one, one if b is a and right is left else _matrix(b, right))
        total = product if total is None else total + product.to(total.device)
    assert total is not None
    return total


def _matrix(block: Tensor, shifts: Tensor | None) -> Float[Tensor, "m n"]:
    rows = block.flatten(1) if block.ndim > 1 else block.unsqueeze(1)
    rows = rows.to(_summed_in(block))
    return rows if shifts is None else shifted(rows, shifts.to(rows.device))


def weighted_sum(
    jacobians: Sequence[Float[Tensor, "m *shape"]], weights: Float[Tensor, " m"]
) -> tuple[Float[Tensor, "*shape"], ...]:
    """``Jᵀw``, block by block, in each block's dtype.

    It is summed in the wider of the block's dtype and the weights', and in single precision at
    least.

    :param jacobians: Blocks ``[m, *shape]``.
    :param weights: ``[m]``.

    >>> weighted_sum([torch.tensor([[1.0, 0.0], [1.0, 2.0]])], torch.tensor([1.0, 0.5]))
    (tensor([1.5000, 1.0000]),)
    """
    return tuple(_weighted_rows(block, weights) for block in jacobians)


def _weighted_rows(block: Tensor, weights: Tensor) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(block.dtype, weights.dtype), torch.float32)
    rows = block.reshape(block.shape[0], -1).to(dtype)
    summed = weights.to(device=block.device, dtype=dtype) @ rows
    return summed.to(block.dtype).reshape(block.shape[1:])


def lengths(rows: Float[Tensor, "m n"]) -> Float[Tensor, " m"]:
    """The norm of each row, to the precision and over the whole range of the rows' dtype.

    Of a million numbers and more, torch's own norm in single precision has an error of 1e-5 and
    more, and of numbers below 1e-19 it is zero.

    :param rows: ``[m, n]``.
    :return: ``[m]``, in the same dtype, half precision as float32.

    >>> lengths(torch.tensor([[3e-30, 4e-30]]))
    tensor([5.0000e-30])
    """
    wide = rows.to(_summed_in(rows))
    found = _lengths(wide)
    suspects = misfits(found.square())
    if suspects is not None:
        own = wide[suspects]
        shifts = shifts_of(largest_entries([own]))
        found[suspects] = torch.ldexp(_lengths(shifted(own, shifts)), -shifts)
    return found


def _lengths(rows: Float[Tensor, "m n"]) -> Float[Tensor, " m"]:
    return torch.cat([products(row, row) for row in rows.split(1)]).flatten().sqrt()


class Normalised(NamedTuple):
    """A Gramian as cosines and norms: ``G = N C N`` with ``N = diag(norms)``."""

    cosines: Float[Tensor, "m m"]
    """Unit diagonal where the row's norm is positive, a zero row and column where it is zero."""
    norms: Float[Tensor, " m"]
    """The rows' norms."""


def normalised(gramian: Float[Tensor, "m m"]) -> Normalised:
    """Splits a Gramian into the rows' norms and the Gramian of the unit rows.

    Solving on the latter makes a method blind to the scale of each objective, down to rows whose
    norms differ by the whole range of the dtype.

    :param gramian: Symmetric and positive semi-definite, ``[m, m]``.
    """
    norms = gramian.diagonal().clamp(min=0.0).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, torch.zeros_like(norms))
    unit = gramian * inverse * inverse.unsqueeze(1)
    unit = (0.5 * (unit + unit.T)).clamp(-1.0, 1.0)
    unit.diagonal().copy_((norms > 0).to(unit.dtype))
    return Normalised(unit, norms)


def cosines(gramian: Float[Tensor, "m m"]) -> Float[Tensor, "m m"]:
    """The cosine between each two rows of the Jacobian; 0 where a row is zero.

    :param gramian: ``[m, m]``.

    >>> cosines(torch.tensor([[4.0, -2.0], [-2.0, 4.0]]))
    tensor([[ 1.0000, -0.5000],
            [-0.5000,  1.0000]])
    """
    return normalised(gramian).cosines


def generalized(
    gramian: Float[Tensor, "m m"], shape: Sequence[int]
) -> Float[Tensor, "*shape_and_reversed"]:
    """The Gramian of losses of ``shape``, indexed by theirs: ``[m1, m2] -> [m1, m2, m2, m1]``.

    Entry ``[i, j, k, l]`` is the inner product of the gradients of ``losses[i, j]`` and
    ``losses[l, k]``.

    :param gramian: ``[m, m]``, rows in the order of ``losses.flatten()``.
    :param shape: The losses' shape, whose product is ``m``.
    :raises ValueError: if it is not.
    """
    shape = tuple(shape)
    if math.prod(shape) != len(gramian):
        raise ValueError(f"losses of shape {list(shape)} do not have {len(gramian)} entries")
    order = len(shape)
    axes = [*range(order), *reversed(range(order, 2 * order))]
    return gramian.reshape((*shape, *shape)).permute(axes)


def _summed_in(block: Tensor) -> torch.dtype:
    return torch.promote_types(block.dtype, torch.float32)
