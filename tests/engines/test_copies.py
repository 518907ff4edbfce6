"""Engines are copied, pickled and saved together with their model, and then serve the copy."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd

from .truth import ENGINES

pytestmark = pytest.mark.filterwarnings("ignore:.*differentiates one objective at a time")


def saved_and_loaded(thing: Any) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),  # noqa: S301  # our own
    "torch.save": saved_and_loaded,
}


class Scaled(nn.Module):
    """A layer without a rule, which autogram watches."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def model_of() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), Scaled(), nn.Tanh(), nn.Linear(4, 2))


def losses_of(model: nn.Module) -> Tensor:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    found: Tensor = model(x).square().mean(1)
    return found


def hooks_on(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("order", ["model first", "engine first"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_copy_of_an_engine_serves_the_copy_of_its_model(
    engine: str, way: str, order: str
) -> None:
    model = model_of()
    made = jd.engine(engine, model, batch_dim=0)
    weighting = jd.weighting("upgrad")
    made.backward(losses_of(model), weighting)
    model.zero_grad()
    if order == "model first":
        copied, other = WAYS[way]((model, made))
    else:
        other, copied = WAYS[way]((made, model))
    assert other.modules == (copied,)
    assert hooks_on(copied) == hooks_on(model)
    weights = other.backward(losses_of(copied), weighting)
    assert all(parameter.grad is None for parameter in model.parameters())
    expected = made.backward(losses_of(model), weighting)
    torch.testing.assert_close(weights, expected)
    for mine, theirs in zip(copied.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    forecast = other.forecast(losses_of(copied), weighting)
    assert forecast.mode == made.forecast(losses_of(model), weighting).mode
    other.close()
    assert hooks_on(copied) == 0
    made.compute_gramian(losses_of(model))


def test_a_copy_of_an_engine_goes_through_layers_by_their_rules() -> None:
    model = model_of()
    engine = jd.engine("autogram", model, batch_dim=0)
    copied, other = copy.deepcopy((model, engine))
    for each, of in ((engine, model), (other, copied)):
        lin = each.linearize([losses_of(of)])
        routes = getattr(lin, "routes", None) or lin.dependencies
        assert routes.nodes
        calls = [
            each.recorder.found_at(node, output) for node in routes.nodes for output in range(2)
        ]
        assert sum(call is not None for call in calls) == 2  # the third layer has no rule


@pytest.mark.parametrize("way", WAYS)
def test_a_model_copied_alone_is_not_watched(way: str) -> None:
    model = model_of()
    engine = jd.engine("autogram", model)
    copied = WAYS[way](model)
    losses_of(copied)
    assert hooks_on(copied) == 0
    assert hooks_on(model) > 0
    engine.close()


class Trained(nn.Module):
    """Holds a Descent, as a trainer's module does."""

    def __init__(self, engine: str, *, whole: bool) -> None:
        super().__init__()
        self.model = model_of()
        self.descent = jd.Descent(self if whole else self.model, "upgrad", engine=engine)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.model(x)
        return found


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_module_that_holds_its_descent_is_copied(engine: str, way: str, whole: bool) -> None:
    trained = Trained(engine, whole=whole)
    trained.descent.backward(losses_of(trained))
    trained.zero_grad()
    copied = WAYS[way](trained)
    step = copied.descent.backward(losses_of(copied))
    assert step.engine == engine
    assert all(parameter.grad is None for parameter in trained.parameters())
    assert all(parameter.grad is not None for parameter in copied.model.parameters())
