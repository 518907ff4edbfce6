"""What autograd itself gives, one objective at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

ENGINES = ("autogram", "autojac", "chunked")


def jacobian(losses: Tensor | Sequence[Tensor], model: nn.Module) -> Tensor:
    """``[m, n]`` in float64, by ``m`` ordinary backward passes; the graph stays."""
    scalars = losses.reshape(-1) if isinstance(losses, Tensor) else losses
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for scalar in scalars:
        found = torch.autograd.grad(scalar, parameters, retain_graph=True, allow_unused=True)
        rows.append(torch.cat([_flat(g, p) for g, p in zip(found, parameters, strict=True)]))
    return torch.stack(rows)


def gradient(model: nn.Module) -> Tensor:
    """Every trained parameter's ``.grad``, in float64, zero where there is none."""
    return torch.cat([_flat(p.grad, p) for p in model.parameters() if p.requires_grad])


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal up to a share of the largest entry."""
    error = float((found.double() - expected.double()).abs().max())
    assert error <= tolerance * float(expected.double().abs().max()), error


@contextmanager
def autocast(dtype: torch.dtype) -> Iterator[None]:
    """Of the CPU; none in single precision."""
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        yield


def _flat(gradient: Tensor | None, like: Tensor) -> Tensor:
    if gradient is None:
        return torch.zeros(like.numel(), dtype=torch.float64)
    return gradient.to_dense().detach().flatten().double()
