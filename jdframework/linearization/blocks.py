"""Converts between columns of the Jacobian and one tensor per input, and sums Gramians."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Gradients: TypeAlias = tuple[list[Tensor], list[Tensor | None]]
"""Tensors, and one gradient for each, None where nothing depends on it."""


def split(direction: Float[Tensor, " n"], inputs: Sequence[Tensor]) -> list[Tensor]:
    """One value per column as one tensor per input, of its shape and dtype.

    A complex number has two columns, as in :func:`as_reals`.

    :param direction: For the columns of the inputs, one after the other.
    :param inputs: Tensors.
    """
    parts = torch.split(direction, [columns_of(tensor) for tensor in inputs])
    return [of_reals(part, t.shape, t.dtype) for part, t in zip(parts, inputs, strict=True)]


def columns_of(tensor: Tensor) -> int:
    """How many columns of real numbers a tensor has: two for each complex one."""
    return 2 * tensor.numel() if tensor.is_complex() else tensor.numel()


def as_reals(block: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones, in a further dimension; real ones as they are.

    So gradients are compared by their real inner product, and a step is what it would be if the
    real and the imaginary part were the parameters.

    :param block: Any tensor.

    >>> as_reals(torch.tensor([1 + 2j]))
    tensor([[1., 2.]])
    """
    return torch.view_as_real(block.resolve_conj()) if block.is_complex() else block


def of_reals(values: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The tensor that :func:`as_reals` gives these values of.

    :param values: Real numbers, in any shape.
    :param shape: Of the tensor.
    :param dtype: Of the tensor.
    """
    if not dtype.is_complex:
        return values.to(dtype).reshape(tuple(shape))
    pairs = values.to(dtype.to_real()).reshape(*shape, 2)
    return torch.complex(pairs[..., 0], pairs[..., 1])


def summed(gramians: Sequence[Tensor | None]) -> Float[Tensor, "m m"] | None:
    """The Gramian of all groups; None where no objective depends on any."""
    present = [gramian for gramian in gramians if gramian is not None]
    if not present:
        return None
    first, *rest = present
    return sum((each.to(first.device) for each in rest), start=first)


def joined(*parts: Gradients) -> Gradients:
    """Several updates as one.

    :param parts: Of different tensors.
    """
    return (
        [tensor for tensors, _ in parts for tensor in tensors],
        [gradient for _, gradients in parts for gradient in gradients],
    )


def excluding(update: Gradients, tensors: Sequence[Tensor]) -> Gradients:
    """An update without what it has for some tensors.

    :param update: Of any tensors.
    :param tensors: Those to leave out.
    """
    excluded = {id(tensor) for tensor in tensors}
    pairs = [pair for pair in zip(*update, strict=True) if id(pair[0]) not in excluded]
    return [tensor for tensor, _ in pairs], [gradient for _, gradient in pairs]
