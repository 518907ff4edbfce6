"""The dynamic weight average."""

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


class TestDWA(ScalarizerSuite):
    spec: ClassVar[str] = "dwa"


class TestDWAOfAMatrix(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "dwa", "temperature": 0.5}
    shapes = ((2, 3),)


class TestDWAOfOneLoss(ScalarizerSuite):
    spec: ClassVar[str] = "dwa"
    shapes = ((),)


def some_losses(*shape: int, seed: int = 0) -> Tensor:
    return 0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def after_epochs(*epochs: list[list[float]], **config: Any) -> Any:
    """The method after epochs, each a list of batches."""
    method = jd.scalarizer("dwa", **config)
    for epoch in epochs:
        for batch in epoch:
            method(torch.tensor(batch, dtype=torch.float64))
        method.end_epoch()
    return method


def weights_of(method: Any, m: int = 2) -> list[float]:
    leaf = torch.ones(m, dtype=torch.float64, requires_grad=True)
    (weights,) = torch.autograd.grad(method(leaf), leaf)
    return weights.tolist()


def test_the_weights_are_the_papers() -> None:
    method = after_epochs([[2.0, 4.0], [4.0, 8.0]], [[1.5, 2.0], [1.5, 1.0]], temperature=2.0)
    first, second = math.exp(1.5 / 3 / 2), math.exp(1.5 / 6 / 2)
    expected = [2 * first / (first + second), 2 * second / (first + second)]
    assert weights_of(method) == pytest.approx(expected, rel=1e-12)


def test_the_weights_sum_to_the_number_of_losses() -> None:
    method = after_epochs([[1.0, 2.0, 3.0]], [[3.0, 1.0, 2.0]])
    assert sum(weights_of(method, 3)) == pytest.approx(3)


def test_the_weights_are_one_until_two_epochs_are_over() -> None:
    method = jd.scalarizer("dwa")
    for epoch in range(3):
        for batch in range(3):
            weights = weights_of(method)
            method(torch.tensor([1.0, 2.0 + epoch + batch], dtype=torch.float64))
            assert (weights == [1.0, 1.0]) == (epoch < 2)
        method.end_epoch()


def test_only_the_last_two_epochs_count() -> None:
    last = [[[3.0, 1.0]], [[2.0, 5.0]]]
    assert weights_of(after_epochs([[9.0, 0.1]], *last)) == weights_of(after_epochs(*last))


def test_the_weights_are_fixed_within_an_epoch() -> None:
    method = after_epochs([[1.0, 1.0]], [[1.0, 0.5]])
    before = weights_of(method)
    method(torch.tensor([100.0, 0.0], dtype=torch.float64))
    assert weights_of(method) == before


def test_an_epoch_without_a_batch_is_none() -> None:
    method = after_epochs([[1.0, 1.0]], [[1.0, 0.5]])
    before = weights_of(method)
    other = after_epochs([], [[1.0, 1.0]], [], [[1.0, 0.5]], [])
    assert weights_of(other) == before


def test_a_large_temperature_makes_the_weights_alike() -> None:
    epochs = ([[1.0, 1.0]], [[1.0, 0.1]])
    assert weights_of(after_epochs(*epochs, temperature=1e9)) == pytest.approx([1, 1])
    assert weights_of(after_epochs(*epochs, temperature=1e-9)) == pytest.approx([2, 0])


def test_a_loss_that_was_zero_spoils_nothing() -> None:
    method = after_epochs([[0.0, 0.0, 1.0]], [[0.0, 1.0, 1.0]])
    assert weights_of(method, 3) == pytest.approx([1, 1, 1])


def test_a_loss_that_grew_beyond_measure_takes_all_the_weight() -> None:
    assert weights_of(after_epochs([[1e-6, 1.0]], [[1e6, 1.0]])) == pytest.approx([2, 0])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_batch_that_is_not_finite_is_not_counted(value: float) -> None:
    clean = after_epochs([[1.0, 2.0]], [[1.0, 0.5]])
    spoilt = after_epochs([[1.0, 2.0], [value, 1.0]], [[1.0, value]], [[1.0, 0.5]])
    assert weights_of(spoilt) == weights_of(clean)


def test_the_means_of_a_long_epoch_keep_their_digits() -> None:
    method = jd.scalarizer("dwa")
    losses = torch.tensor([0.1, 0.7])
    for _ in range(3000):
        method(losses)
    method.end_epoch()
    torch.testing.assert_close(method.averages[0], losses.double(), rtol=1e-12, atol=0)


def test_losses_of_another_shape_are_refused_with_both_until_reset() -> None:
    method = jd.scalarizer("dwa")
    method(torch.ones(3))
    message = r"losses of shape \[3\], but was given losses of shape \[2\]: call reset"
    with pytest.raises(ValueError, match=message):
        method(torch.ones(2))
    method.end_epoch()
    with pytest.raises(ValueError, match=message):
        method(torch.ones(2))
    method.reset()
    assert method(torch.ones(2)).item() == 2


@pytest.mark.parametrize("temperature", [0, -1, math.nan, math.inf, "hot", None])
def test_an_impossible_temperature_is_refused(temperature: object) -> None:
    with pytest.raises(jd.ConfigError, match="dwa: temperature"):
        jd.scalarizer("dwa", temperature=temperature)


def test_it_keeps_no_graph() -> None:
    method = jd.scalarizer("dwa")
    for _ in range(3):
        method(torch.ones(2, requires_grad=True)).backward()
        method.end_epoch()
    assert not any(tensor.requires_grad for tensor in method.state_dict().values())


def trained(descent: jd.Descent, model: Any, steps: range) -> list[Tensor]:
    found = []
    for step in steps:
        inputs = some_losses(4, 3, seed=step)
        losses = model(inputs).square().mean(0)
        model.zero_grad()
        found.append(descent.backward({"a": losses[0], "b": losses[1]}).weights)
        with torch.no_grad():
            model.weight -= 0.1 * model.weight.grad
        if step % 3 == 2:
            descent.end_epoch()
    return [*found, model.weight.detach().clone()]


def new_run() -> tuple[jd.Descent, torch.nn.Linear]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2, bias=False)
    return jd.Descent(model, "dwa", temperature=0.1), model


@pytest.mark.parametrize("done", [1, 6, 10])
def test_training_resumes_bit_for_bit(done: int, tmp_path: Path) -> None:
    descent, model = new_run()
    expected = trained(descent, model, range(20))
    descent, model = new_run()
    trained(descent, model, range(done))
    torch.save([descent.state_dict(), model.state_dict()], tmp_path / "saved.pt")
    descent, model = new_run()
    method_state, model_state = torch.load(tmp_path / "saved.pt", weights_only=True)
    descent.load_state_dict(method_state)
    model.load_state_dict(model_state)
    found = trained(descent, model, range(done, 20))
    assert all(map(torch.equal, found, expected[done:]))
    assert any(weights.tolist() != [1.0, 1.0] for weights in found)


def test_a_state_of_another_method_is_refused() -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        jd.scalarizer("dwa").load_state_dict({})


def test_a_loaded_state_is_not_shared() -> None:
    method = after_epochs([[1.0, 2.0]])
    method(torch.ones(2))
    twin = jd.scalarizer("dwa")
    twin.load_state_dict(method.state_dict())
    twin.total.fill_(7)
    assert method.total.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3)])
@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_torchjd_gives_the_same(shape: tuple[int, ...], temperature: float) -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    theirs = scalarization.DWA(temperature)
    ours = jd.scalarizer("dwa", temperature=temperature)
    for step in range(12):
        losses = some_losses(*shape, seed=step)
        torch.testing.assert_close(ours(losses), theirs(losses))
        if step % 3 == 2:
            ours.end_epoch()
            theirs.step()


def test_torchjd_forgets_the_history_in_a_checkpoint_where_this_does_not() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    theirs, ours = scalarization.DWA(), jd.scalarizer("dwa")
    theirs(torch.ones(2))
    ours(torch.ones(2))
    assert not theirs.state_dict()
    assert set(ours.state_dict()) == {"total", "averages", "batches"}
