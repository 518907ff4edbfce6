"""Fast adaptive multitask optimisation."""

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


class TestFAMO(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "famo", "shape": 3}


class TestFAMOWithoutAShape(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "famo"}


class TestFAMOWithBounds(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {
        "name": "famo",
        "shape": (2, 3),
        "min_losses": [-3.0, -3.5, -4.0, -5.0, -3.0, -3.0],
    }
    permutation_invariant = False
    negative_losses = True


class TestFAMOOfOneLoss(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "famo", "shape": ()}


def some_losses(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 + torch.rand(shape, generator=generator, dtype=torch.float64)


def gradient_at(method: Any, losses: Tensor) -> Tensor:
    leaf = losses.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(method(leaf), leaf)
    return gradient


def with_logits(logits: list[float], **config: Any) -> Any:
    method = jd.scalarizer("famo", shape=len(logits), **config)
    method.logits.copy_(torch.tensor(logits))
    return method


def test_the_value_is_the_papers() -> None:
    losses, bounds = some_losses(3), torch.tensor([0.0, -1.0, 0.05]).double()
    z = torch.softmax(torch.tensor([0.5, -1.0, 0.2]).double(), 0)
    gaps = losses - bounds + 1e-8
    expected = (z * gaps.log()).sum() / (z / gaps).sum()
    method = with_logits([0.5, -1.0, 0.2], min_losses=bounds)
    torch.testing.assert_close(method(losses), expected, rtol=1e-6, atol=0)


def test_the_weights_are_the_shares_over_the_gaps_and_sum_to_one() -> None:
    losses = some_losses(3)
    weights = gradient_at(with_logits([0.5, -1.0, 0.2]), losses)
    expected = torch.softmax(torch.tensor([0.5, -1.0, 0.2]).double(), 0) / losses
    torch.testing.assert_close(weights, expected / expected.sum(), rtol=1e-6, atol=0)
    assert weights.sum().item() == pytest.approx(1)


def test_the_gradient_is_the_derivative_once_c_is_taken_for_a_constant() -> None:
    losses = some_losses(3).requires_grad_()
    z = torch.softmax(torch.zeros(3).double(), 0)
    c = 1 / (z / (losses.detach() + 1e-8)).sum()

    def frozen(given: Tensor) -> Tensor:
        return c * (z * (given + 1e-8).log()).sum()

    assert torch.autograd.gradcheck(frozen, losses)
    (expected,) = torch.autograd.grad(frozen(losses), losses)
    found = gradient_at(jd.scalarizer("famo", shape=3), losses.detach())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_loss_that_fell_more_loses_weight() -> None:
    method = jd.scalarizer("famo", shape=3)
    losses = torch.tensor([1.0, 100.0, 1e-3])
    method(losses)
    method.after_update(losses * torch.tensor([0.5, 0.9, 1.1]))
    first, second, third = method.logits.tolist()
    assert first < second < third


def test_rounding_errors_of_losses_that_fall_alike_move_no_weights() -> None:
    method = jd.scalarizer("famo", shape=3, weight_decay=0)
    losses = torch.tensor([1e4, 3e3, 1.7e5])
    for _ in range(5):
        method(losses)
        method.after_update(0.5 * losses)
    assert method.logits.abs().max() < 1e-3 * method.config.lr


def test_weight_decay_draws_the_weights_together() -> None:
    method = with_logits([1.0, -1.0], weight_decay=0.1)
    for _ in range(200):
        method(torch.ones(2))
        method.after_update(torch.ones(2))
    assert method.logits.abs().max() < 0.1


def test_an_update_before_the_first_call_teaches_nothing() -> None:
    method = jd.scalarizer("famo")
    method.after_update(torch.ones(2))
    assert method.updates == 0


def test_losses_of_the_lower_bound_are_served() -> None:
    bounds = [0.7, -0.3]
    method = jd.scalarizer("famo", shape=2, min_losses=bounds)
    for dtype in (torch.float32, torch.float64):
        losses = torch.tensor(bounds, dtype=dtype)
        assert torch.isfinite(gradient_at(method, losses)).all()
        method.after_update(losses)
    assert method.updates == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_losses_of_another_precision_are_served(dtype: torch.dtype) -> None:
    method = jd.scalarizer("famo", shape=2)
    method(torch.tensor([1.0, 2.0], dtype=dtype))
    method.after_update(torch.tensor([0.5, 2.0], dtype=dtype))
    assert method.logits.dtype == torch.float64
    assert method.logits.tolist() == pytest.approx([-0.025, 0.025], rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite_teach_nothing(value: float) -> None:
    method, spoilt = jd.scalarizer("famo", shape=2), torch.tensor([1.0, value])
    for before, after in [(spoilt, torch.ones(2)), (torch.ones(2), spoilt)]:
        method(before)
        method.after_update(after)
    assert not method.updates
    assert not method.logits.any()


def test_without_a_step_there_is_nothing_to_learn() -> None:
    method = jd.scalarizer("famo", shape=2)
    method.after_update(torch.tensor([1.0, 2.0]))
    assert not method.updates
    method(torch.tensor([2.0, 2.0]))
    method.after_update(torch.tensor([1.0, 2.0]))
    logits = method.logits.clone()
    method.after_update(torch.tensor([0.1, 2.0]))
    assert torch.equal(method.logits, logits)


def test_a_loop_that_skips_steps_goes_on() -> None:
    model = torch.nn.Linear(2, 2)
    descent = jd.Descent(model, "famo", shape=2, on_nonfinite="skip")
    for factor in (math.nan, 1.0, math.nan, 1.0):
        losses = model(torch.ones(3, 2)).square().mean(0) * factor
        step = descent.backward(losses)
        assert step.skipped == math.isnan(factor)
        descent.after_update(0.9 * losses.detach())
    assert descent.method.updates == 2


@pytest.mark.parametrize("learning", [False, True])
def test_a_loss_below_its_bound_is_refused_with_both(learning: bool) -> None:
    method = jd.scalarizer("famo", shape=3, min_losses=[0.0, 0.5, 0.0])
    with pytest.raises(ValueError, match=r"loss 1 is 0\.25, below its lower bound 0\.5: set min"):
        (method.after_update if learning else method)(torch.tensor([1.0, 0.25, 1.0]))


def test_losses_of_another_shape_are_refused_after_the_update_too() -> None:
    method = jd.scalarizer("famo", shape=3)
    method(torch.ones(3))
    with pytest.raises(ValueError, match=r"losses of shape \[3\], but was given losses of shape"):
        method.after_update(torch.ones(2))


@pytest.mark.parametrize(
    "settings",
    [
        {"shape": 0},
        {"lr": -1},
        {"lr": math.nan},
        {"weight_decay": -1e-3},
        {"weight_decay": math.inf},
        {"min_losses": [0.0]},
        {"min_losses": [0.0, math.nan]},
        {"min_losses": "low"},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(jd.ConfigError, match=f"famo: {next(iter(settings))}"):
        jd.scalarizer("famo", **{"shape": 2} | settings)


def test_nothing_of_it_is_for_the_users_optimizer() -> None:
    method = jd.scalarizer("famo", shape=2)
    losses = torch.ones(2, requires_grad=True)
    method(losses).backward()
    method.after_update(0.5 * losses)
    assert not list(method.parameters())
    assert not any(tensor.requires_grad for tensor in method.state_dict().values())


def trained(descent: jd.Descent, model: Any, steps: range) -> list[Tensor]:
    found = []
    for step in steps:
        inputs = some_losses(4, 3, seed=step).float()
        model.zero_grad()
        found.append(descent.backward(list(model(inputs).square().mean(0))).weights)
        with torch.no_grad():
            model.weight -= 0.1 * model.weight.grad
        descent.after_update(list(model(inputs).square().mean(0)))
    return [*found, model.weight.detach().clone()]


def new_run() -> tuple[jd.Descent, torch.nn.Linear]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2, bias=False)
    return jd.Descent(model, "famo", shape=2), model


@pytest.mark.parametrize("done", [0, 1, 10])
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


def test_a_state_saved_between_the_step_and_the_update_resumes() -> None:
    method, twin = (jd.scalarizer("famo", shape=2) for _ in range(2))
    method(torch.tensor([2.0, 2.0]))
    twin.load_state_dict(method.state_dict())
    for each in (method, twin):
        each.after_update(torch.tensor([1.0, 2.0]))
    assert method.logits.any()
    assert torch.equal(method.logits, twin.logits)


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_torchjd_gives_the_same(shape: tuple[int, ...], bounded: bool) -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    bounds = -some_losses(*shape, seed=99) if bounded else torch.zeros(shape).double()
    settings = {"lr": 0.1, "weight_decay": 0.01}
    theirs = scalarization.FAMO(shape, bounds, **settings).double()
    ours = jd.scalarizer("famo", shape=shape, min_losses=bounds.flatten(), **settings)
    for step in range(20):
        losses, after = some_losses(2, *shape, seed=step)
        torch.testing.assert_close(ours(losses), theirs(losses))
        torch.testing.assert_close(gradient_at(ours, losses), gradient_at(theirs, losses))
        ours.after_update(after)
        theirs.update(after)


def test_torchjd_leaves_adam_out_of_a_checkpoint_where_this_does_not() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    assert set(scalarization.FAMO(2).state_dict()) == {"_w", "min_losses"}
    kept = {"logits", "before", "first_moment", "second_moment", "updates"}
    assert set(jd.scalarizer("famo", shape=2).state_dict()) == kept
