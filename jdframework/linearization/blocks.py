"""Values of all columns as one tensor per input, and Gramians of parts of them as one of all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


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
