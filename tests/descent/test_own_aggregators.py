"""An aggregator's own forward, and its hooks, run wherever it is used, and once a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.bases import Aggregator, WeightedSum

X = torch.tensor([[1.0, 2.0, -1.0], [0.5, -1.0, 2.0], [2.0, 0.0, 1.0], [1.0, 1.0, 1.0]])


class UnitLength(Aggregator):
    """A weighting's update, of unit length: a wrapper that has an attribute ``weighting``."""

    def __init__(self, weighting: Any) -> None:
        super().__init__()
        self.weighting = weighting

    def forward(self, jacobian: Tensor, /) -> Tensor:
        direction: Tensor = jd.aggregator(self.weighting)(jacobian)
        return direction / direction.norm()


class Halved(WeightedSum):
    """One that derives from the weighted sum, and does something else."""

    def forward(self, jacobian: Tensor, /, **extra: Tensor) -> Tensor:
        return super().forward(jacobian, **extra) / 2


def losses_of(model: nn.Module) -> Tensor:
    losses: Tensor = model(X).square().mean(0)
    return losses


def by_descent(model: nn.Module, method: Any) -> None:
    jd.Descent(model, method).backward(losses_of(model))


def by_backward(model: nn.Module, method: Any) -> None:
    jd.backward(losses_of(model), method)


def by_engine(model: nn.Module, method: Any) -> None:
    jd.engine("autojac", model).backward(losses_of(model), method)


def by_fields(model: nn.Module, method: Any) -> None:
    jd.backward(losses_of(model))
    jd.jac_to_grad(model.parameters(), method)


def by_features(model: nn.Module, method: Any) -> None:
    features = model(X)
    jd.mtl_backward(list(features.square().mean(0)), features, method)


def by_chunked(model: nn.Module, method: Any) -> None:
    jd.Descent(model, method, engine="chunked").backward(losses_of(model))


WAYS = [by_descent, by_backward, by_engine, by_fields, by_features, by_chunked]
Way = Callable[[nn.Module, Any], None]


def jacobian_of(model: nn.Module) -> Tensor:
    parameters = list(model.parameters())
    return torch.cat([block.flatten(1) for block in jd.jac(losses_of(model), parameters)], 1)


def update_of(model: nn.Module, way: Way, method: Any) -> Tensor:
    model.zero_grad()
    way(model, method)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def made() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [UnitLength, Halved])
def test_an_aggregators_own_forward_is_the_update(way: Way, kind: type[Aggregator]) -> None:
    model = made()
    method: Any = kind(jd.weighting("upgrad"))  # type: ignore[call-arg]
    torch.testing.assert_close(update_of(model, way, method), method(jacobian_of(model)))


@pytest.mark.parametrize("way", WAYS)
def test_hooks_of_an_aggregator_and_of_its_weighting_run_once(way: Way) -> None:
    model = made()
    method: Any = jd.aggregator("upgrad")
    plain = update_of(model, way, method)
    seen: list[str] = []
    method.register_forward_hook(lambda _, given, out: seen.append(f"aggregator {len(given[0])}"))
    method.weighting.register_forward_hook(lambda *_: seen.append("weighting"))
    torch.testing.assert_close(update_of(model, way, method), plain)
    assert sorted(seen) == ["aggregator 2", "weighting"]


@pytest.mark.parametrize("way", WAYS)
def test_what_a_hook_returns_is_the_update(way: Way) -> None:
    model = made()
    method: Any = jd.aggregator("upgrad")
    plain = update_of(model, way, method)
    method.register_forward_hook(lambda _, __, direction: 3 * direction)
    torch.testing.assert_close(update_of(model, way, method), 3 * plain)


def test_the_weights_are_told_all_the_same() -> None:
    model = made()
    method: Any = jd.aggregator("upgrad")
    expected = jd.backward(losses_of(model), method)
    method.register_forward_hook(lambda *_: None)
    assert expected is not None
    found = jd.backward(losses_of(model), method)
    assert found is not None
    torch.testing.assert_close(found, expected)


def test_hooks_that_come_later_go_on_with_an_engine_that_has_rows() -> None:
    model = nn.Linear(512, 2048)  # whose Gramian is cheaper without the rows
    x = torch.randn(4, 512)

    def losses() -> Tensor:
        found: Tensor = model(x).square().mean(0)[:2]
        return found

    method: Any = jd.aggregator("upgrad")
    descent = jd.Descent(model, method)
    assert descent.backward(losses()).engine == "autogram"
    seen: list[torch.Size] = []
    hook = method.register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
    with pytest.warns(UserWarning, match="forward hooks of the aggregator 'upgrad'"):
        step = descent.backward(losses())
    assert step.engine == "autojac"
    assert seen == [torch.Size([2, 512 * 2048 + 2048])]
    hook.remove()
