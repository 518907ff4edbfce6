"""A layer that is called many times: its calls are taken for one, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jd_plugin_autogram import Autogram
from jd_plugin_autogram.rules import rule_for

from .truth import F64, assert_served, one, several, tasks

STEPS = 7


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Loop(nn.Module):
    """A recurrence written by hand."""

    def __init__(self, layer: nn.Module, step: Callable[..., Any]) -> None:
        super().__init__()
        self.layer, self.head, self.step = layer, nn.Linear(6, 3), step

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for part in x.unbind(1):
            state = self.step(self.layer, part, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


def added(layer: nn.Module, part: Tensor, state: Tensor | None) -> Tensor:
    return torch.tanh(layer(part) + (0 if state is None else layer(state)))


def cell(layer: nn.Module, part: Tensor, state: Any) -> Any:
    return layer(part, state)


def by_name(layer: nn.Module, part: Tensor, state: Any) -> Any:
    return layer(input=part, hx=state)


LOOPS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any]]] = {
    "linear": (lambda: nn.Linear(6, 6), added),
    "no bias": (lambda: nn.Linear(6, 6, bias=False), added),
    "layer norm": (lambda: nn.LayerNorm(6), added),
    "rms norm": (lambda: nn.RMSNorm(6), added),
    "rnn cell": (lambda: nn.RNNCell(6, 6), cell),
    "gru cell": (lambda: nn.GRUCell(6, 6), cell),
    "lstm cell": (lambda: nn.LSTMCell(6, 6), cell),
    "lstm cell by name": (lambda: nn.LSTMCell(6, 6), by_name),
}


@pytest.mark.parametrize("batch_dim", [0, None])
@pytest.mark.parametrize("loss", [one, several], ids=["one loss", "three losses"])
@pytest.mark.parametrize("name", LOOPS)
def test_a_layer_called_in_a_loop_has_exact_rows(
    name: str, loss: Callable[[Tensor], Tensor], batch_dim: int | None
) -> None:
    make, step = LOOPS[name]
    model, x = Loop(make(), step).to(F64), torch.randn(4, STEPS, 6, dtype=F64)
    found = tasks if batch_dim is None else loss
    assert_served(model, lambda: found(model(x)), batch_dim=batch_dim)


@pytest.mark.parametrize("name", LOOPS)
def test_all_calls_of_a_loop_take_the_rule_about_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, step = LOOPS[name]
    model, x = Loop(make(), step).to(F64), torch.randn(4, STEPS, 6, dtype=F64)
    engine = Autogram(model, batch_dim=0)
    asked: list[nn.Module] = []
    rule = rule_for(model.layer)
    factors = rule.factors

    def counted(use: Any, wanted: Any) -> Any:
        asked.append(use.layer)
        return factors(use, wanted)

    monkeypatch.setattr(rule, "factors", counted)
    engine.compute_gramian(one(model(x)))
    # The first call may be given no state, and the last one's second output may not be used.
    assert 1 <= sum(layer is model.layer for layer in asked) <= 3 < STEPS


def test_calls_on_batches_of_other_lengths_are_kept_apart() -> None:
    layers = nn.ModuleList([nn.Linear(5, 5), nn.LayerNorm(5), nn.Linear(5, 1)]).to(F64)
    x = torch.randn(4, 6, 5, dtype=F64)

    def losses() -> Tensor:
        state, total = x, torch.zeros(4, dtype=F64)
        for length in (6, 6, 4, 4, 4, 1):
            state = torch.tanh(layers[1](layers[0](state[:, :length])))
            total = total + layers[2](state).square().mean((1, 2))
        return total + layers[2](layers[0](state[:, 0]).sin()).flatten()

    assert_served(layers, losses)


@pytest.mark.parametrize("time_first", [False, True])
def test_instances_that_are_the_faster_or_the_slower_index_are_told_apart(
    time_first: bool,
) -> None:
    layers = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 1)]).to(F64)
    x = torch.randn(4, 3, 5, dtype=F64)

    def losses() -> Tensor:
        state = (x.transpose(0, 1) if time_first else x).reshape(12, 5)
        for _ in range(5):
            state = torch.tanh(layers[0](state))
        found = layers[1](state).square()
        return found.reshape(3, 4).sum(0) if time_first else found.reshape(4, 3).sum(1)

    assert_served(layers, losses)


def test_tables_that_are_read_step_by_step_keep_their_tokens() -> None:
    layers = nn.ModuleDict({"table": nn.Embedding(9, 5, padding_idx=0), "cell": nn.GRUCell(5, 5)})
    layers.to(F64)
    tokens = torch.randint(9, (4, STEPS))

    def losses() -> Tensor:
        state = torch.zeros(4, 5, dtype=F64)
        for column in tokens.unbind(1):
            state = layers["cell"](layers["table"](column), state)
        return one(state)

    assert_served(layers, losses)


def test_calls_in_training_and_in_evaluation_mode_and_frozen_parameters() -> None:
    model, x = Loop(nn.Linear(6, 6), added).to(F64), torch.randn(4, STEPS, 6, dtype=F64)
    model.layer.bias.requires_grad_(False)

    def losses() -> Tensor:
        model.train()
        first = model(x)
        model.eval()
        return one(first + model(x))

    assert_served(model, losses)


def test_a_call_whose_instances_lie_elsewhere_is_taken_alone() -> None:
    """One call has its instances along the second dimension."""
    layers = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 1)]).to(F64)
    x = torch.randn(4, 4, 5, dtype=F64)

    def losses() -> Tensor:
        hidden = torch.tanh(layers[0](torch.tanh(layers[0](x))))
        turned = torch.tanh(layers[0](hidden.transpose(0, 1)))
        return layers[1](turned).square().sum((0, 2))

    assert_served(layers, losses)


def test_gradients_that_vanish_over_many_steps_stay_layer_by_layer() -> None:
    layer, x = nn.Linear(6, 6), torch.randn(4, 6)

    def losses() -> Tensor:
        state = x
        for _ in range(300):
            state = torch.tanh(0.5 * layer(state))
        return one(state)

    engine = assert_served(layer, losses, 1e-5)
    plan = engine.linearize([losses()]).plan
    assert plan.fallback == []
    assert len(plan.contributions) == 300
