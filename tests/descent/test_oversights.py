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


@pytest.mark.parametrize("method", ["sum", "mean"])
def test_plain_training_that_is_asked_for_is_no_reason_to_warn(method: str) -> None:
    model = nn.Linear(3, 2)
    jd.Descent(model, method).backward(losses_of(model).mean())
    jd.Descent(model, method, engine="autojac").backward(losses_of(model).mean())
    with pytest.warns(UserWarning, match="one loss per instance"):
        jd.Descent(model, method, batch_dim=0).backward(losses_of(model).mean())


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
        train(25)
    train(25)  # and not again


@pytest.mark.parametrize("accumulated", [1, 8, 16])
def test_learned_weights_that_an_optimizer_has_are_no_reason_to_warn(accumulated: int) -> None:
    model = nn.Linear(3, 2)
    descent = jd.Descent(model, "uw", shape=2)
    optimizer = torch.optim.Adam([*model.parameters(), *descent.parameters()], 0.01)
    for _ in range(5):
        for _ in range(accumulated):
            descent.backward(losses_of(model))
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("every", [4, 16])
def test_learned_weights_whose_optimizer_steps_more_rarely_are_no_reason_to_warn(
    every: int,
) -> None:
    model = nn.Linear(3, 2)
    descent = jd.Descent(model, "uw", shape=2)
    fast = torch.optim.SGD(model.parameters(), 0.01)
    slow = torch.optim.SGD(descent.parameters(), 0.01)
    for number in range(1, 4 * every + 1):
        descent.backward(losses_of(model))
        fast.step()
        fast.zero_grad()
        if number % every == 0:
            slow.step()
            slow.zero_grad()


def test_learned_weights_that_are_written_past_torch_are_no_reason_to_warn() -> None:
    model = nn.Linear(3, 2)
    descent = jd.Descent(model, "uw", shape=2)
    fast = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(50):
        descent.backward(losses_of(model))
        fast.step()
        for parameter in descent.parameters():  # an optimizer with a kernel of its own
            assert parameter.grad is not None
            parameter.data -= 0.01 * parameter.grad


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


class Trainer:
    """Somebody else's loop, which clears and steps when it wants to."""

    def __init__(self, method: str = "upgrad") -> None:
        self.trunk, self.heads = nn.Linear(3, 4), nn.Linear(4, 2)
        self.descent = jd.Descent(self.trunk, method)
        parameters = [*self.trunk.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.SGD(parameters, 0.01)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)

    def backward(self) -> None:
        self.descent.backward(self.heads(self.trunk(torch.ones(4, 3))).square().mean(0))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("method", ["upgrad", "sum"])
def test_updates_that_are_cleared_before_the_optimizer_steps_are_named(
    method: str, parts: int
) -> None:
    trainer = Trainer(method)

    def train(steps: int) -> None:
        for _ in range(steps):
            for _ in range(parts):
                trainer.backward()
            trainer.optimizer.zero_grad()
            trainer.optimizer.step()

    train(20)
    with pytest.warns(UserWarning, match=r"self\.automatic_optimization = False"):
        train(1)
    train(25)  # and not again


@pytest.mark.parametrize("to_none", [True, False])
def test_an_optimizer_of_other_parameters_is_noticed(to_none: bool) -> None:
    trainer = Trainer()
    other = torch.optim.SGD(nn.Linear(3, 4).parameters(), 0.01)

    def train() -> None:
        for _ in range(25):
            trainer.backward()
            other.step()
            trainer.trunk.zero_grad(set_to_none=to_none)

    with pytest.warns(UserWarning, match="an optimizer that has these parameters"):
        train()


def plain(trainer: Trainer) -> None:
    trainer.backward()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()


def in_parts(trainer: Trainer) -> None:
    for _ in range(32):
        trainer.backward()
        nn.utils.clip_grad_norm_(trainer.trunk.parameters(), 1e-3)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=False)


def by_hand(trainer: Trainer) -> None:
    trainer.backward()
    for parameter in trainer.trunk.parameters():
        assert parameter.grad is not None
        parameter.data -= 0.01 * parameter.grad
        parameter.grad = None


def looked_at(trainer: Trainer) -> None:
    trainer.trunk.requires_grad_(False)
    trainer.heads(trainer.trunk(torch.ones(4, 3))).sum()


def evaluated(trainer: Trainer) -> None:
    trainer.trunk.eval()
    trainer.backward()
    trainer.trunk.zero_grad()


def in_half_precision(trainer: Trainer) -> None:
    losses = 1e8 * trainer.heads(trainer.trunk(torch.ones(4, 3))).square().mean(0)
    trainer.descent.backward(losses, scaler=trainer.scaler)
    trainer.scaler.step(trainer.optimizer)  # leaves out 25 overflows or more
    trainer.scaler.update()
    trainer.optimizer.zero_grad()


def without_updates(trainer: Trainer) -> None:
    trainer.backward()


@pytest.mark.parametrize(
    "loop", [plain, in_parts, by_hand, looked_at, evaluated, in_half_precision, without_updates]
)
def test_loops_that_train_or_keep_their_gradients_are_no_reason_to_warn(
    loop: Callable[[Trainer], None],
) -> None:
    trainer = Trainer()
    for _ in range(45):
        loop(trainer)


def test_a_few_gradients_that_are_only_looked_at_are_no_reason_to_warn() -> None:
    trainer = Trainer()
    for _ in range(15):
        trainer.backward()
        trainer.trunk.zero_grad()
    for _ in range(25):
        plain(trainer)
