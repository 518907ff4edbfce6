"""Every installed method on a small model, with what can go wrong in a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.protocols.names import Kind
from jdframework.testing import derived_suite

KINDS: Final[tuple[Kind, ...]] = ("weighting", "aggregator", "scalarizer")
METHODS: Final = [(kind, name) for kind in KINDS for name in jd.available(kind)]
ENGINES: Final = jd.available("engine")
M: Final = 3
"""Objectives."""


def method_of(kind: Kind, name: str) -> Any:
    """An instance with the settings that it requires, and a seed where it takes one."""
    seeded = "seed" in jd.describe(name, kind).config_schema.get("properties", {})
    required = derived_suite(kind, name).config
    config = {field: (2 * v)[:M] if isinstance(v, list) else v for field, v in required.items()}
    if seeded:
        config["seed"] = 0
    return getattr(jd, kind)(name, **config)


def model() -> nn.Sequential:
    """The same at every call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, M))


def losses_of(model: nn.Module, number: int = 0) -> Tensor:
    """One loss per output, above zero, of the batch with this number."""
    batch = torch.randn(6, 3, generator=torch.Generator().manual_seed(number))
    losses: Tensor = (model(batch) - 2.0).square().mean(0)
    return losses


def loss_that_is_nan(losses: Tensor) -> Tensor:
    """The losses, the second of them not a number."""
    return losses * torch.tensor([1.0, math.nan, 1.0])


def gradient_that_is_nan(losses: Tensor) -> Tensor:
    """Finite losses, the second of which has no finite gradient."""
    root = (0 * losses[1]).sqrt()
    return torch.stack([losses[0], 1.0 + root, losses[2]])


def step(descent: jd.Descent, losses: Callable[[int], Tensor], number: int = 0) -> jd.Step:
    """One step, with independent batches for the methods that need them."""
    others = None
    if "cross-gramian" in descent.method.needs:
        count = max(getattr(descent.method, "independent_batches", (1,)))
        others = tuple(losses(1000 + 2 * number + i) for i in range(count))
    return descent.backward(losses(number), independent=others)


def snapshot(module: nn.Module | jd.Descent) -> dict[str, Any]:
    """A copy of the state."""
    return {
        key: value.clone() if isinstance(value, Tensor) else value
        for key, value in module.state_dict().items()
    }


def grads_of(*modules: nn.Module) -> list[Tensor | None]:
    """Copies of every ``.grad``."""
    found = (p.grad for module in modules for p in module.parameters())
    return [None if grad is None else grad.clone() for grad in found]


def same(first: Any, second: Any) -> bool:
    """Whether all tensors in two structures are the same in every bit, NaN included."""
    if isinstance(first, Tensor):
        equal: bool = first.dtype == second.dtype and first.shape == second.shape
        return equal and first.numpy().tobytes() == second.numpy().tobytes()
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)
