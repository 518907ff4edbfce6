"""Parameters in half precision: the update is rounded once, and the weights are not rounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from jdframework.bases import GramianWeighting

from jd_plugin_autogram import Autogram

HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Thirds(GramianWeighting):
    """Weights that half precision does not have."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return (1 + torch.arange(len(gramian)) / 300).to(gramian) / 3


def conflicting(*shape: int, dtype: torch.dtype) -> Tensor:
    """Of which the second half is nearly the first one's opposite."""
    half = torch.randn(shape[0] // 2, *shape[1:])
    return torch.cat([half, -half * (1 + 0.01 * torch.rand_like(half))]).to(dtype)


def linear(dtype: torch.dtype) -> tuple[nn.Module, Tensor, tuple[int, ...]]:
    return nn.Linear(40, 300).to(dtype), torch.ones(16, 40, dtype=dtype), (16, 300)


def narrowing(dtype: torch.dtype) -> tuple[nn.Module, Tensor, tuple[int, ...]]:
    return nn.Linear(300, 40).to(dtype), torch.ones(16, 300, dtype=dtype), (16, 40)


def sequence(dtype: torch.dtype) -> tuple[nn.Module, Tensor, tuple[int, ...]]:
    return nn.Linear(60, 70).to(dtype), torch.ones(16, 3, 60, dtype=dtype), (16, 3, 70)


def convolution(dtype: torch.dtype) -> tuple[nn.Module, Tensor, tuple[int, ...]]:
    return nn.Conv1d(40, 48, 3).to(dtype), torch.ones(16, 40, 5, dtype=dtype), (16, 48, 3)


def exactly(layer: nn.Module, x: Tensor, factors: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """What the update is, of the same inputs and output gradients in float64."""
    parameters = [p.detach().double().requires_grad_() for p in layer.parameters()]
    run = nn.functional.linear if isinstance(layer, nn.Linear) else nn.functional.conv1d
    rows = (run(x.double(), *parameters) * factors.double()).flatten(1).sum(1)
    return torch.autograd.grad(rows, parameters, weights.double())


@pytest.mark.parametrize("watched", [True, False], ids=["layer", "operations"])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("make", "batch_dim"),
    [(linear, 0), (narrowing, 0), (sequence, 0), (convolution, 0), (linear, None)],
)
def test_an_update_of_half_precision_parameters_is_rounded_once(
    make: Callable[[torch.dtype], tuple[nn.Module, Tensor, tuple[int, ...]]],
    batch_dim: int | None,
    dtype: torch.dtype,
    watched: bool,
) -> None:
    layer, x, shape = make(dtype)
    engine = Autogram(layer, batch_dim=batch_dim) if watched else None
    factors = conflicting(*shape, dtype=dtype)
    # Outputs times constants: what comes back to each output is the constant itself.
    losses = (layer(x) * factors).flatten(1).sum(1)
    engine = engine or Autogram(layer, batch_dim=batch_dim)
    weights = engine.backward(losses, Thirds())
    assert weights is not None
    expected = exactly(layer, x, factors, weights)
    sizes = exactly(layer, x.abs(), factors.abs(), weights.abs())
    for p, wanted, size in zip(layer.parameters(), expected, sizes, strict=True):
        assert p.grad is not None
        error = (p.grad.double() - wanted).abs()
        # One rounding of the result, and those of single precision on the way.
        allowed = torch.finfo(dtype).eps * wanted.abs() + 1e-5 * size
        assert float((error / allowed).max()) <= 1
