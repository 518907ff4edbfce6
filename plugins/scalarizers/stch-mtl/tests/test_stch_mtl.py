"""STCH for multi-task learning: a warm-up, then a smooth maximum relative to the nadir."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import ScalarizerSuite


class TestSTCHMTL(ScalarizerSuite):
    spec = "stch-mtl"


class TestSTCHMTLWithAShortWarmup(ScalarizerSuite):
    # The suite ends an epoch after every other step: it sees the smooth maximum too.
    spec: ClassVar[Mapping[str, Any]] = {"name": "stch-mtl", "warmup_epochs": 1, "mu": 0.1}


def some_losses(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)


def after_epochs(*epochs: list[list[float]], **config: Any) -> Any:
    """The method after epochs, each a list of batches."""
    method = jd.scalarizer("stch-mtl", **config)
    for epoch in epochs:
        for batch in epoch:
            method(torch.tensor(batch, dtype=torch.float64))
        method.end_epoch()
    return method


def value_and_gradient(method: Any, losses: Tensor) -> tuple[Tensor, Tensor]:
    leaf = losses.clone().requires_grad_()
    value = method(leaf)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def official(losses: Tensor, nadir: Tensor, mu: float) -> Tensor:
    """The formula of the official code."""
    relative = (losses / nadir).log()
    return losses.numel() * mu * (relative / mu).exp().sum().log()


@pytest.mark.parametrize("mu", [0.05, 0.3, 1.0, 10.0])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3)])
def test_after_the_warmup_the_value_is_the_official_one(mu: float, shape: tuple[int, ...]) -> None:
    method = jd.scalarizer("stch-mtl", mu=mu, warmup_epochs=1)
    nadir = some_losses(*shape, seed=1)
    method(nadir)
    method.end_epoch()
    losses = some_losses(*shape, seed=2)
    found = value_and_gradient(method, losses)
    leaf = losses.clone().requires_grad_()
    expected = official(leaf, nadir, mu)
    torch.testing.assert_close(found[0], expected.detach(), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(expected, leaf)
    torch.testing.assert_close(found[1], gradient, rtol=1e-12, atol=1e-14)


def test_in_the_warmup_the_value_is_the_sum_of_the_logarithms() -> None:
    method = jd.scalarizer("stch-mtl")
    for epoch in range(4):
        losses = some_losses(3, seed=epoch)
        value, gradient = value_and_gradient(method, losses)
        torch.testing.assert_close(value, losses.log().sum())
        torch.testing.assert_close(gradient, 1 / losses)
        method.end_epoch()
    assert method(some_losses(3)) != some_losses(3).log().sum()


def test_the_nadir_is_the_mean_of_the_last_epoch_of_the_warmup() -> None:
    method = after_epochs([[9.0, 9.0]], [[1.0, 2.0], [3.0, 6.0]], warmup_epochs=2)
    assert method.nadir.tolist() == [2.0, 4.0]
    method(torch.tensor([100.0, 100.0], dtype=torch.float64))
    method.end_epoch()
    assert method.nadir.tolist() == [2.0, 4.0]


def test_the_unit_of_a_loss_does_not_matter_after_the_warmup() -> None:
    plain = after_epochs([[1.0, 2.0]], warmup_epochs=1, mu=0.2)
    scaled = after_epochs([[1000.0, 0.002]], warmup_epochs=1, mu=0.2)
    losses = torch.tensor([0.7, 0.9], dtype=torch.float64)
    units = torch.tensor([1000.0, 0.001], dtype=torch.float64)
    torch.testing.assert_close(scaled(units * losses), plain(losses))


def test_the_objective_that_fell_least_gets_the_gradient() -> None:
    method = after_epochs([[1.0, 10.0]], warmup_epochs=1, mu=0.01)
    losses = torch.tensor([0.9, 1.0], dtype=torch.float64)
    _, gradient = value_and_gradient(method, losses)
    assert (gradient * losses).tolist() == pytest.approx([2.0, 0.0], abs=1e-12)


def test_a_small_mu_does_not_overflow() -> None:
    method = after_epochs([[1e-20, 1e20]], warmup_epochs=1, mu=1e-6)
    value, gradient = value_and_gradient(method, torch.tensor([1e20, 1e-20], dtype=torch.float64))
    assert value.item() == pytest.approx(2 * math.log(1e40))
    assert gradient.isfinite().all()


def test_an_epoch_without_a_batch_is_none() -> None:
    method = after_epochs([], [[1.0, 1.0]], [], warmup_epochs=2)
    assert not method.nadir.numel()
    method(torch.ones(2))
    method.end_epoch()
    assert method.nadir.numel()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_batch_that_is_not_finite_is_not_counted(value: float) -> None:
    method = after_epochs([[1.0, 2.0], [value, 1.0]], warmup_epochs=1)
    assert method.nadir.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_not_hidden(value: float, warm: bool) -> None:
    method = after_epochs([[1.0, 2.0]], warmup_epochs=1 if warm else 9)
    assert not method(torch.tensor([value, 1.0])).isfinite()


def test_losses_and_means_of_zero_give_finite_values() -> None:
    method = after_epochs([[0.0, 1.0]], warmup_epochs=1)
    for losses in ([0.0, 1.0], [1.0, 0.0]):
        value, gradient = value_and_gradient(method, torch.tensor(losses, dtype=torch.float64))
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_a_negative_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="stch-mtl needs losses of at least zero, but one is -2"):
        jd.scalarizer("stch-mtl")(torch.tensor([1.0, -2.0]))


def test_losses_of_another_shape_are_refused_until_reset() -> None:
    method = jd.scalarizer("stch-mtl", warmup_epochs=1)
    method(torch.ones(3))
    with pytest.raises(jd.ConfigError, match=r"shape \[3\], but now there are \[2\]: call reset"):
        method(torch.ones(2))
    method.end_epoch()
    with pytest.raises(jd.ConfigError, match=r"nadir of shape \[3\]"):
        method(torch.ones(2))
    method.reset()
    assert method(torch.ones(2)).item() == 0.0


def test_without_end_epoch_the_warmup_never_ends() -> None:
    method = jd.scalarizer("stch-mtl", warmup_epochs=1)
    for step in range(20):
        losses = some_losses(3, seed=step)
        torch.testing.assert_close(method(losses), losses.log().sum())


def new_run() -> tuple[jd.Descent, torch.nn.Linear]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2, bias=False)
    return jd.Descent(model, "stch-mtl", warmup_epochs=2), model


def trained(run: tuple[jd.Descent, Any], steps: range) -> list[Tensor]:
    descent, model = run
    found = []
    for step in steps:
        losses = model(some_losses(4, 3, seed=step).float()).square().mean(0)
        model.zero_grad()
        found.append(descent.backward({"a": losses[0], "b": losses[1]}).weights)
        with torch.no_grad():
            model.weight -= 0.01 * model.weight.grad
        if step % 3 == 2:
            descent.end_epoch()
    return [*found, model.weight.detach().clone()]


@pytest.mark.parametrize("done", [1, 4, 6, 10])
def test_training_resumes_bit_for_bit(done: int, tmp_path: Path) -> None:
    expected = trained(new_run(), range(20))
    run = new_run()
    trained(run, range(done))
    torch.save([part.state_dict() for part in run], tmp_path / "saved.pt")
    run = new_run()
    for part, state in zip(run, torch.load(tmp_path / "saved.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert all(map(torch.equal, trained(run, range(done, 20)), expected[done:]))


@pytest.mark.parametrize(
    "setting", [{"mu": 0}, {"mu": math.nan}, {"warmup_epochs": 0}, {"warmup_epochs": 1.5}]
)
def test_impossible_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(jd.ConfigError, match=f"stch-mtl: {next(iter(setting))} = "):
        jd.scalarizer("stch-mtl", **setting)
