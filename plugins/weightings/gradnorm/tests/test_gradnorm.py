"""GradNorm: the fixed point that the paper describes, reached exactly, at any scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import FAMILIES, WeightingSuite


class TestGradNorm(WeightingSuite):
    spec = "gradnorm"

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The first call's weights are one."""
        return float((weights - 1).abs().max())


class TestGradNormWithoutRates(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "gradnorm", "alpha": 0.0, "lr": 1.0}


def after(steps: int, gramian: Tensor, losses: Tensor, **config: Any) -> Tensor:
    """The weights after as many steps on the same gradients; the first losses were all one."""
    method = jd.weighting("gradnorm", **config)
    method(gramian, losses=torch.ones_like(losses))
    for _ in range(steps):
        weights = method(gramian, losses=losses)
    return weights


def gramian_of(seed: int, m: int = 4) -> Tensor:
    jacobian = FAMILIES["random"](m, seed)
    return jacobian @ jacobian.T


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("m", [1, 2, 5])
def test_the_fixed_point_is_the_rates_power_over_the_norm(m: int, alpha: float) -> None:
    norms = torch.logspace(-1, 1, m, dtype=torch.float64)
    losses = torch.linspace(0.2, 0.9, m, dtype=torch.float64)
    found = after(2000, norms.square().diag(), losses, alpha=alpha)
    expected = losses**alpha / norms
    torch.testing.assert_close(found, m * expected / expected.sum(), rtol=1e-12, atol=0)


def test_it_is_reached_from_norms_that_differ_by_1e12() -> None:
    norms = torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64)
    losses = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64)
    found = after(3000, norms.square().diag(), losses, alpha=1.0)
    expected = losses / norms
    torch.testing.assert_close(found, 3 * expected / expected.sum(), rtol=1e-9, atol=0)


def test_there_the_l1_objective_of_the_paper_is_zero() -> None:
    # With alpha = 1 the mean of the rates' powers is one, as in the paper's formula.
    norms = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    losses = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64)
    weights = after(500, norms.square().diag(), losses, alpha=1.0)
    rates = losses / losses.mean()
    lengths = weights * norms
    assert (lengths - lengths.mean() * rates).abs().sum() <= 1e-12 * lengths.sum()


def test_the_weights_sum_to_the_number_of_objectives_and_stay_positive() -> None:
    method = jd.weighting("gradnorm", lr=0.5)
    generator = torch.Generator().manual_seed(0)
    for step in range(200):
        losses = torch.rand(4, generator=generator, dtype=torch.float64)
        weights = method(gramian_of(step), losses=losses)
        assert weights.sum().item() == pytest.approx(4.0, rel=1e-12)
        assert weights.min() > 0


def test_an_objective_that_lags_behind_gains_weight() -> None:
    gramian = torch.eye(3, dtype=torch.float64)
    losses = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    weights = after(40, gramian, losses)
    assert weights[0] < weights[1] < weights[2]


def test_a_longer_gradient_loses_weight() -> None:
    weights = after(5, torch.diag(torch.tensor([1.0, 4.0, 9.0])), torch.ones(3))
    assert weights[0] > weights[1] > weights[2]


def test_one_step_changes_a_weight_by_at_most_its_share() -> None:
    lr = 0.1
    method = jd.weighting("gradnorm", lr=lr)
    before = torch.ones(4, dtype=torch.float64)
    for step in range(50):
        weights = method(gramian_of(step), losses=torch.rand(4, dtype=torch.float64) + 0.1)
        assert (weights / before).log().abs().max() <= 2 * lr  # once more for the sum
        before = weights


def test_the_first_losses_are_those_of_the_first_call() -> None:
    gramian = torch.eye(2, dtype=torch.float64)
    units = torch.tensor([1.0, 1000.0], dtype=torch.float64)
    method, scaled = (jd.weighting("gradnorm") for _ in range(2))
    for step in range(10):
        losses = torch.tensor([0.9**step, 0.7**step], dtype=torch.float64)
        expected = method(gramian, losses=losses)
        torch.testing.assert_close(scaled(gramian, losses=units * losses), expected)


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1e6, 1e12])
def test_small_gradients_have_the_weights_of_large_ones(factor: float) -> None:
    method, scaled = (jd.weighting("gradnorm") for _ in range(2))
    for step in range(10):
        losses = torch.rand(4, generator=torch.Generator().manual_seed(step)).double() + 0.1
        expected = method(gramian_of(step), losses=losses)
        found = scaled(factor**2 * gramian_of(step), losses=losses)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_a_zero_gradient_leaves_the_other_weights_alone() -> None:
    gramian = torch.diag(torch.tensor([1.0, 0.0, 9.0], dtype=torch.float64))
    losses = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64)
    weights = after(500, gramian, losses)
    assert weights[0] / weights[2] == pytest.approx(3.0, rel=1e-12)
    assert after(3, torch.zeros(3, 3), torch.ones(3)).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_losses_that_reach_zero_or_less_give_finite_weights(value: float) -> None:
    losses = torch.tensor([value, 0.5], dtype=torch.float64)
    weights = after(5000, torch.eye(2, dtype=torch.float64), losses)
    assert weights.isfinite().all()
    assert 0 < weights[0] < 1e-6


@pytest.mark.parametrize("first", [0.0, -2.0])
def test_a_first_loss_that_is_not_positive_has_the_rate_of_the_others(first: float) -> None:
    method = jd.weighting("gradnorm")
    gramian = torch.eye(3, dtype=torch.float64)
    method(gramian, losses=torch.tensor([first, 1.0, 1.0]))
    for _ in range(500):
        weights = method(gramian, losses=torch.tensor([5.0, 0.5, 0.5]))
    torch.testing.assert_close(weights, torch.ones(3, dtype=torch.float64))


def test_without_any_positive_first_loss_only_the_norms_count() -> None:
    method = jd.weighting("gradnorm")
    gramian = torch.diag(torch.tensor([1.0, 9.0], dtype=torch.float64))
    for losses in (torch.tensor([0.0, -1.0]), *[torch.tensor([-3.0, 4.0])] * 100):
        weights = method(gramian, losses=losses)
    torch.testing.assert_close(weights, torch.tensor([1.5, 0.5], dtype=torch.float64))


def test_without_losses_it_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="gradnorm needs the losses beside the gradients"):
        jd.weighting("gradnorm")(torch.eye(2))
    with pytest.raises(ValueError, match="3 losses, but there are 2 objectives"):
        jd.weighting("gradnorm")(torch.eye(2), losses=torch.ones(3))


@pytest.mark.parametrize("bad", ["gramian", "losses"])
def test_what_is_not_finite_leaves_no_trace(bad: str) -> None:
    method, control = (jd.weighting("gradnorm") for _ in range(2))
    given = {"gramian": torch.eye(2), "losses": torch.ones(2)}
    given[bad] = given[bad] * torch.nan
    assert method(given["gramian"], losses=given["losses"]).isnan().all()
    for _ in range(3):
        losses = torch.rand(2, generator=torch.Generator().manual_seed(0))
        expected = control(gramian_of(0, 2), losses=losses)
        assert torch.equal(method(gramian_of(0, 2), losses=losses), expected)


def test_another_number_of_objectives_is_refused_until_reset() -> None:
    method = jd.weighting("gradnorm")
    method(torch.eye(3), losses=torch.ones(3))
    with pytest.raises(jd.ConfigError, match=r"weights of shape \[3\].*call reset\(\)"):
        method(torch.eye(2), losses=torch.ones(2))
    method.reset()
    assert method(torch.eye(2), losses=torch.ones(2)).tolist() == [1.0, 1.0]


def trained(alpha: float) -> tuple[list[Tensor], Tensor]:
    """A plain loop, on two tasks of which one has a hundred times the scale."""
    pytest.importorskip("jd_plugin_autojac")
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2, dtype=torch.float64)
    inputs = torch.randn(16, 3, dtype=torch.float64)
    targets = torch.randn(16, 2, dtype=torch.float64)
    descent = jd.Descent(model, "gradnorm", alpha=alpha, lr=0.1, engine="autojac")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scales = torch.tensor([1.0, 100.0], dtype=torch.float64)
    weights = []
    for _ in range(100):
        step = descent.backward(scales * (model(inputs) - targets).square().mean(0))
        weights.append(step.weights)
        optimizer.step()
        optimizer.zero_grad()
    assert step.gramian is not None
    return weights, weights[-1] * step.gramian.diagonal().sqrt()


def test_a_plain_loop_needs_nothing_else() -> None:
    weights, lengths = trained(alpha=0.0)
    assert weights[0].tolist() == [1.0, 1.0]
    assert lengths[0] / lengths[1] == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("setting", [{"alpha": -0.1}, {"lr": 0.0}])
def test_impossible_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(jd.ConfigError, match=f"gradnorm: {next(iter(setting))} = "):
        jd.weighting("gradnorm", **setting)
