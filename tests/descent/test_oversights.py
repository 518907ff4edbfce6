"""What a training loop has forgotten is said once, and what it means to do is not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.bases import GramianWeighting
from jdframework.descent import oversights


def losses_of(model: nn.Module) -> Tensor:
    found: Tensor = model(torch.ones(4, 3)).square().mean(0)
    return found


@pytest.mark.parametrize("settings", [{"batch_dim": 0}, {}], ids=str)
@pytest.mark.parametrize("method", ["upgrad", "uw"])
def test_one_scalar_is_said_to_be_plain_training(method: str, settings: dict[str, Any]) -> None:
    model = nn.Linear(3, 2)
    config: dict[str, Any] = {"shape": ()} if method == "uw" else {}
    descent = jd.Descent(model, method, **settings, **config)
    with pytest.warns(UserWarning, match="reduction='none'"):
        descent.backward(losses_of(model).mean())
    descent.backward(losses_of(model).mean())  # and not again


@pytest.mark.parametrize("method", ["uw", "imtl-l", "imtl"])
def test_learned_weights_that_no_optimizer_has_are_named(method: str) -> None:
    model = nn.Linear(3, 2)
    descent = jd.Descent(model, method, shape=2)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def train(steps: int) -> None:
        for _ in range(steps):
            descent.backward(losses_of(model))
            optimizer.step()
            optimizer.zero_grad()

    with pytest.warns(UserWarning, match=r"\*descent\.parameters\(\)"):
        train(5)
    train(5)  # and not again


@pytest.mark.parametrize("accumulated", [1, 8])
def test_learned_weights_that_an_optimizer_has_are_no_reason_to_warn(accumulated: int) -> None:
    model = nn.Linear(3, 2)
    descent = jd.Descent(model, "uw", shape=2)
    optimizer = torch.optim.Adam([*model.parameters(), *descent.parameters()], 0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            for _ in range(accumulated):
                descent.backward(losses_of(model))
            optimizer.step()
            optimizer.zero_grad()


def test_weights_that_are_frozen_on_purpose_are_no_reason_to_warn() -> None:
    model = nn.Linear(3, 2)
    descent = jd.Descent(model, "uw", shape=2)
    descent.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            descent.backward(losses_of(model))
            optimizer.step()


class Loop:
    """A training loop of plain steps, which tells the method what the test wants it to."""

    def __init__(self, method: Any, **settings: Any) -> None:
        self.model = nn.Linear(3, 2)
        self.descent = jd.Descent(self.model, method, **settings)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01)

    def train(self, updates: int, *, batches: int = 1, tell: str | None = None) -> None:
        for _ in range(updates):
            for _ in range(batches):
                self.descent.backward(losses_of(self.model) + 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if tell == "after_update":
                self.descent.after_update(losses_of(self.model) + 1.0)
            elif tell == "end_epoch":
                self.descent.end_epoch()


class Told(GramianWeighting):
    """A weighting that wants to be told everything."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return torch.ones_like(gramian.diagonal())

    def after_update(self, losses: Tensor, /) -> None: ...

    def end_epoch(self) -> None: ...


LEARNERS: dict[str, Callable[[], Any]] = {
    "famo": lambda: jd.scalarizer("famo", shape=2),
    "one that is wrapped": lambda: jd.weighting("cr-mogm", inner=Told()),
    "one that is wrapped twice": lambda: jd.weighting(
        "flattening", inner=jd.weighting("cr-mogm", inner=Told())
    ),
    "one that is grouped": lambda: jd.aggregator("grouped", inner=Told()),
    "an aggregator": lambda: jd.aggregator(Told()),
}
BY_EPOCHS: dict[str, Callable[[], Any]] = {
    **{name: make for name, make in LEARNERS.items() if name != "famo"},
    "dwa": lambda: jd.scalarizer("dwa"),
    "stch-mtl": lambda: jd.scalarizer("stch-mtl"),
}


@pytest.mark.parametrize("method", LEARNERS)
@pytest.mark.parametrize("batches", [1, 4])
def test_an_update_that_the_method_is_not_told_of_is_named_once(method: str, batches: int) -> None:
    loop = Loop(LEARNERS[method]())
    loop.train(2, batches=batches)
    with pytest.warns(UserWarning, match=r"descent\.after_update\(losses\) after optimizer\.step"):
        loop.train(1, batches=batches)
    loop.train(3, batches=batches)  # and not again


@pytest.mark.parametrize("batches", [1, 16])
def test_updates_that_the_method_is_told_of_are_no_reason_to_warn(batches: int) -> None:
    loop = Loop(LEARNERS["famo"]())
    loop.train(5, batches=batches, tell="after_update")


def test_backward_passes_without_an_update_are_no_reason_to_warn() -> None:
    loop = Loop(LEARNERS["famo"]())
    for _ in range(20):
        loop.descent.backward(losses_of(loop.model) + 1.0)


@pytest.mark.parametrize("method", BY_EPOCHS)
def test_epochs_whose_end_is_never_told_are_named_once(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oversights, "_NO_EPOCH", 5)
    loop = Loop(BY_EPOCHS[method]())
    loop.descent.after_update(losses_of(loop.model))
    loop.train(5)
    with pytest.warns(UserWarning, match=r"write descent\.end_epoch\(\) at the end of each"):
        loop.train(1)
    loop.train(6)  # and not again


@pytest.mark.parametrize("method", ["dwa", "stch-mtl"])
def test_epochs_whose_end_is_told_are_no_reason_to_warn(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oversights, "_NO_EPOCH", 5)
    loop = Loop(method)
    loop.train(4)
    loop.descent.end_epoch()
    loop.train(12)


def test_a_thousand_steps_of_dwa_without_an_epoch_are_one_warning() -> None:
    descent = jd.Descent(nn.Linear(1, 1), "dwa")
    value = torch.ones(2, requires_grad=True)
    for _ in range(1000):
        descent.backward(value * 2)
    with pytest.warns(UserWarning, match="dwa goes by epochs, and has not been told the end of"):
        descent.backward(value * 2)


@pytest.mark.parametrize("method", ["cr-mogm", "grouped"])
def test_a_wrapper_of_what_needs_no_telling_is_no_reason_to_warn(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oversights, "_NO_EPOCH", 5)
    Loop(method, inner="upgrad").train(8)
