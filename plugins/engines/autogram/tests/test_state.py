"""A layer that has a state of any kind is differentiated as it was when it was called."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn

from jd_plugin_autogram import Autogram

from .truth import F64, Ramp, joined, one, reference, tasks

_OUTSIDE: Final = {"calls": 0}


class Stateful(nn.Module):
    """``exp(s) ∘ x`` times a number that its state gives, another one at each call."""

    def __init__(self, start: Callable[[nn.Module], None], number: Callable[[Any], Any]) -> None:
        super().__init__()
        self.logs = nn.Parameter(torch.rand(4, dtype=F64))
        start(self)
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        return x * self.logs.exp() * self.number(self)


def _buffer(layer: Any) -> None:
    layer.register_buffer("n", torch.zeros((), dtype=F64))


def _replaced(layer: Any) -> Tensor:
    layer.n = layer.n + 1
    found: Tensor = layer.n
    return found


def _counted(layer: Any) -> int:
    layer.n += 1
    return int(layer.n)


def _longer(layer: Any) -> int:
    layer.n.append(1)
    return len(layer.n)


def _in_a_mapping(layer: Any) -> int:
    layer.n["calls"]["of this"] += 1
    return int(layer.n["calls"]["of this"])


def _outside(_: Any) -> int:
    _OUTSIDE["calls"] += 1
    return _OUTSIDE["calls"]


def _numbers() -> Iterator[int]:
    yield from range(1, 10**6)


class _Counter:
    def __init__(self) -> None:
        self.n = 0


def _in_an_object(layer: Any) -> int:
    layer.n.n += 1
    return int(layer.n.n)


def _set(value: Callable[[], Any]) -> Callable[[Any], None]:
    return lambda layer: setattr(layer, "n", value())


KINDS: Final[dict[str, tuple[Callable[[Any], None], Callable[[Any], Any]]]] = {
    "a buffer that is replaced": (_buffer, _replaced),
    "a tensor that is no buffer": (_set(lambda: torch.zeros((), dtype=F64)), _replaced),
    "a number": (_set(int), _counted),
    "a list that grows": (_set(list), _longer),
    "a nested mapping": (_set(lambda: {"calls": {"of this": 0}}), _in_a_mapping),
    "another object": (_set(_Counter), _in_an_object),
    "a Python generator": (_set(_numbers), lambda layer: next(layer.n)),
    "a torch generator": (
        _set(lambda: torch.Generator().manual_seed(1)),
        lambda layer: 1 + torch.rand((), dtype=F64, generator=layer.n),
    ),
    "Python's random numbers": (lambda _: random.seed(0), lambda _: 1 + random.random()),  # noqa: S311
    "something outside of the layer": (lambda _: _OUTSIDE.update(calls=0), _outside),
}


@pytest.mark.parametrize("batch_dim", [0, None])
@pytest.mark.parametrize("verify_first", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_whose_state_changes_is_differentiated_as_it_was(
    kind: str, verify_first: bool, batch_dim: int | None
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Stateful(*KINDS[kind]), nn.Linear(4, 3)).to(F64)
    engine = Autogram(model, batch_dim=batch_dim, verify_first=verify_first)
    x = torch.randn(5, 4, dtype=F64)
    for _ in range(3):
        output = model(x)
        losses = one(output) if batch_dim == 0 else tasks(output)
        expected = reference(losses, engine.parameters)
        torch.testing.assert_close(engine.compute_gramian(losses), expected, rtol=1e-9, atol=0)
        wanted = torch.autograd.grad(
            losses,
            engine.parameters,
            torch.arange(1.0, 1.0 + len(losses), dtype=F64),
            retain_graph=True,
        )
        engine.backward(losses, Ramp())
        found = joined([p.grad for p in engine.parameters])
        torch.testing.assert_close(found, joined(wanted), rtol=1e-9, atol=1e-12)
        model.zero_grad()


def test_a_setting_that_changes_between_two_calls_is_used_as_it_was() -> None:
    torch.manual_seed(0)
    layer = Stateful(_set(lambda: 2), lambda layer: layer.n)
    engine = Autogram(layer, batch_dim=0)
    x = torch.randn(5, 4, dtype=F64)
    first = layer(x)
    layer.n = 3
    losses = one(first + layer(x))
    expected = reference(losses, engine.parameters)
    torch.testing.assert_close(engine.compute_gramian(losses), expected)
