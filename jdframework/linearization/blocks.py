"""Values of all columns as one tensor per input, and Gramians of parts of them as one of all."""

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

    :param direction: For the columns of the inputs, one after the other.
    :param inputs: Tensors.
    """
    parts = torch.split(direction, [tensor.numel() for tensor in inputs])
    return [p.to(t.dtype).reshape(t.shape) for p, t in zip(parts, inputs, strict=True)]


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
