"""What ``torch.autograd`` gives, one ordinary backward pass per loss: the truth for engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from jdframework.bases import GramianWeighting

PRECISION: Final = {torch.float32: 1e-6, torch.float64: 1e-12}
"""How far a result may be off, relative to its scale."""


class InverseNorms(GramianWeighting):
    """Weights that depend on the Gramian and differ between objectives."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        """One over each gradient's norm."""
        return 1 / gramian.diagonal().sqrt()


def rows(losses: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The Jacobian by one ordinary backward pass per loss, ``[m, *parameter.shape]`` each."""
    rows = [
        torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        for loss in losses.flatten()
    ]
    return [torch.stack(blocks) for blocks in zip(*rows, strict=True)]


def joined(blocks: Sequence[Tensor]) -> Tensor:
    """Blocks ``[m, *shape]`` side by side, ``[m, n]``."""
    return torch.cat([block.flatten(1) for block in blocks], dim=1)


def check_close(found: Tensor, expected: Tensor, dtype: torch.dtype, what: str) -> None:
    """Holds a result to the precision of its dtype, relative to the largest entry expected."""
    scale = float(expected.double().abs().max()) if expected.numel() else 0.0
    error = float((found.double() - expected.double()).norm()) / (scale or 1.0)
    assert error <= PRECISION[dtype], f"{what} is off by {error:.1e} relative to its scale, {dtype}"
