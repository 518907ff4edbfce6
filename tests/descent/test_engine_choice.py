"""Which engine is taken: the cheapest that can, and that holds no more than is free."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework import registry
from jdframework.autograd import memory
from jdframework.bases import Aggregator, JacobianWeighting
from jdframework.descent import engine_choice, missing_engines
from jdframework.registry import discovery


class LargestEntry(Aggregator):
    """A function of the whole Jacobian."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian.amax(0)


class Norms(JacobianWeighting):
    """Weights from the rows."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian.norm(dim=1)


class Observer:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    @jd.hooks.hookimpl
    def jd_fallback(self, name: str, reason: str) -> None:
        """An engine was passed over."""
        self.told.append((name, reason))


@pytest.fixture
def observer() -> Iterator[Observer]:
    found = Observer()
    jd.hooks.register(found)
    yield found
    jd.hooks.unregister(found)


def leave_free(monkeypatch: pytest.MonkeyPatch, size: int | None) -> None:
    def free(_: torch.device) -> int:
        if size is None:
            raise jd.ConfigError("this system does not tell")
        return size

    monkeypatch.setattr(memory, "free_bytes", free)


def losses_of(model: nn.Module, m: int = 4) -> Tensor:
    torch.manual_seed(m)
    losses: Tensor = model(torch.randn(m, 10)).square().mean(1)
    return losses


ROW = 11 * 10 * 4
"""The bytes of a row: what ``nn.Linear(10, 10)`` has, in float32."""


@pytest.mark.parametrize("method", [LargestEntry, Norms])
def test_a_jacobian_that_is_not_free_goes_to_chunked_before_memory_runs_out(
    method: type, monkeypatch: pytest.MonkeyPatch, observer: Observer
) -> None:
    model = nn.Linear(10, 10)
    leave_free(monkeypatch, 4 * ROW)
    step = jd.Descent(model, method(), batch_dim=0).backward(losses_of(model))
    assert step.engine == "chunked"
    what = "would hold 5.3 KB for 4 objectives, but 1.8 KB are free, of which 90% are taken at most"
    assert what in step.reason
    assert observer.told == [("autojac", what)]
    found = model.weight.grad
    model.zero_grad()
    jd.Descent(model, method(), engine="autojac").backward(losses_of(model))
    torch.testing.assert_close(found, model.weight.grad)


def test_one_that_fits_stays_with_autojac(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(10, 10)
    leave_free(monkeypatch, 14 * ROW)
    step = jd.Descent(model, LargestEntry()).backward(losses_of(model))
    assert step.engine == "autojac"
    assert "autojac is the cheapest engine that can form it here" in step.reason


def test_a_method_of_the_gramian_holds_the_jacobian_once_and_a_cross_gramian_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Linear(10, 10)
    leave_free(monkeypatch, 6 * ROW)
    engine = jd.engine("autojac", model)
    held = [
        engine.forecast(losses_of(model), method).memory
        for method in (jd.weighting("upgrad"), jd.weighting("modo"), LargestEntry())
    ]
    assert held == [4 * ROW, 8 * ROW, 12 * ROW]


def test_frozen_and_unreached_parameters_take_no_memory() -> None:
    model = nn.ModuleList([nn.Linear(10, 10), nn.Linear(10, 10), nn.Linear(10, 10)])
    model[1].requires_grad_(False)
    losses = losses_of(nn.Sequential(model[0], model[1]))
    held = jd.engine("autojac", model).forecast(losses, jd.weighting("upgrad")).memory
    assert held == 4 * ROW


def test_more_objectives_than_before_are_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(10, 10)
    leave_free(monkeypatch, 14 * ROW)
    descent = jd.Descent(model, LargestEntry())
    engines = [descent.backward(losses_of(model, m)).engine for m in (4, 2, 8, 4)]
    assert engines == ["autojac", "autojac", "chunked", "chunked"]


def test_the_choice_costs_a_step_nothing_once_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(10, 10)
    descent = jd.Descent(model, LargestEntry())
    first = descent.backward(losses_of(model))

    def fail(*_: object) -> None:
        raise AssertionError("it was looked at again")

    monkeypatch.setattr(engine_choice, "forecast", fail)
    monkeypatch.setattr(memory, "free_bytes", fail)
    second = descent.backward(losses_of(model))
    assert second.reason is first.reason


def test_where_nothing_takes_less_the_cheapest_goes_on(
    monkeypatch: pytest.MonkeyPatch, observer: Observer
) -> None:
    monkeypatch.setenv("JD_DISABLE_PLUGINS", "chunked")
    model = nn.Linear(10, 10)
    leave_free(monkeypatch, 1)
    step = jd.Descent(model, LargestEntry()).backward(losses_of(model))
    assert step.engine == "autojac"
    assert step.reason.endswith("are taken at most; no other installed engine takes less")
    assert not observer.told


def test_an_engine_that_was_asked_for_is_taken_whatever_it_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Linear(10, 10)
    leave_free(monkeypatch, 1)
    step = jd.Descent(model, LargestEntry(), engine="autojac").backward(losses_of(model))
    assert (step.engine, step.reason) == ("autojac", "autojac was asked for")


def test_a_system_that_does_not_tell_what_is_free_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Linear(10, 10)
    leave_free(monkeypatch, None)
    assert jd.Descent(model, LargestEntry()).backward(losses_of(model)).engine == "autojac"


def test_a_refusal_in_the_first_step_is_the_reason_of_the_next_engine(observer: Observer) -> None:
    model = nn.Sequential(nn.Linear(10, 10), nn.BatchNorm1d(10))
    with pytest.warns(UserWarning, match="autogram does not serve this step, and autojac does"):
        step = jd.Descent(model, "upgrad", batch_dim=0).backward(losses_of(model))
    assert step.engine == "autojac"
    assert "autogram: the layer '1' (BatchNorm1d): batch normalisation" in step.reason
    assert [name for name, _ in observer.told] == ["autogram"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"method": "mean"}, "mean is a scalarizer: one backward pass is all it takes"),
        ({"method": "mgda", "on": "features"}, "on='features' takes one backward pass"),
    ],
)
def test_a_step_without_an_engine_says_why(settings: dict[str, str], reason: str) -> None:
    trunk, head = nn.Linear(10, 4), nn.Linear(4, 2)
    features = trunk(torch.randn(3, 10))
    losses = head(features).square().mean(0)
    step = jd.Descent(trunk, **settings).backward(losses, features=features)
    assert step.engine == "autograd"
    assert step.reason.startswith(reason)


def test_a_cheaper_engine_that_is_not_installed_is_named_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(self: discovery.Catalogue, kind: str, name: str) -> tuple[discovery.Offer, ...]:
        return () if name == "autogram" else found(self, kind, name)

    found: Any = discovery.Catalogue.find
    monkeypatch.setattr(discovery.Catalogue, "find", absent)
    monkeypatch.setattr(missing_engines, "_told", set())
    names = [name for name in jd.available("engine") if name != "autogram"]
    monkeypatch.setattr(registry, "available", lambda kind: names)
    model = nn.Linear(10, 10)
    with pytest.warns(UserWarning, match="pip install jd-plugin-autogram"):
        descent = jd.Descent(model, "upgrad", batch_dim=0)
    step = descent.backward(losses_of(model))
    assert step.engine == "autojac"
    assert "autogram is not installed" in step.reason
    jd.Descent(model, "upgrad", batch_dim=0)  # it is said once
    assert "not installed" not in jd.Descent(model, "graddrop").backward(losses_of(model)).reason


def test_an_engine_that_is_blocked_is_not_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JD_DISABLE_PLUGINS", "autogram")
    monkeypatch.setattr(missing_engines, "_told", set())
    model = nn.Linear(10, 10)
    step = jd.Descent(model, "upgrad").backward(losses_of(model))
    assert step.engine == "autojac"
    assert "not installed" not in step.reason


def test_losses_picked_by_a_mask_fall_back_alone_and_are_spoken_of_once() -> None:
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(6, 4)
    descent = jd.Descent(model, "upgrad", batch_dim=0)
    mask = torch.tensor([True, False, True, True, False, True])
    served = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for chosen in (mask, None, mask, None, mask.flip(0)):
            losses = model(x).square().mean(1)
            step = descent.backward(losses if chosen is None else losses[chosen])
            served.append(step.engine)
    assert served == ["autojac", "autogram", "autojac", "autogram", "autojac"]
    (said,) = [str(each.message) for each in caught]
    assert "torch.where(mask, losses, 0)" in said
