"""MoCo: the published recursion, with a true projection."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.linalg import min_norm_weights
from jdframework.testing import FAMILIES, AggregatorSuite


class TestMoCo(AggregatorSuite):
    spec = "moco"

    def optimality(self, jacobian: Tensor, direction: Tensor) -> float:
        """The first step is the published one."""
        expected = published([jacobian])[0]
        scale = float(jacobian.norm(dim=1).max()) or 1.0
        return float((direction - expected).norm()) / scale


class TestMoCoLikeLibMTL(AggregatorSuite):
    spec: ClassVar[Mapping[str, Any]] = {
        "name": "moco",
        "beta": 0.5,
        "beta_sigma": 0.5,
        "gamma_sigma": 0.5,
        "rho": 0.0,
        "normalize": "loss",
    }
    scale = "invariant"


def projected(point: Tensor) -> Tensor:
    """On the simplex, by bisection on the threshold."""
    point, low, high = point - point.max(), -1.0, 0.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((point - middle).clamp(0).sum()) > 1 else (low, middle)
    return (point - high).clamp(0)


def published(
    jacobians: list[Tensor],
    beta: float = 0.1,
    gamma: float = 0.1,
    rho: float = 0.1,
    beta_sigma: float = 0.0,
    gamma_sigma: float = 0.0,
) -> list[Tensor]:
    """Every step's update, by Algorithm 1."""
    m = len(jacobians[0])
    y = torch.zeros_like(jacobians[0])
    weights = torch.full((m,), 1 / m, dtype=torch.float64)
    updates = []
    for k, jacobian in enumerate(jacobians, start=1):
        y = y - beta / k**beta_sigma * (y - jacobian)
        slope = (y @ y.T + rho * torch.eye(m, dtype=torch.float64)) @ weights
        weights = projected(weights - gamma / k**gamma_sigma * slope)
        updates.append(y.T @ weights)
    return updates


def rows(seed: int, m: int = 3, n: int = 6) -> Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta": 0.5, "gamma": 1.0, "rho": 0.0},
        {"beta": 0.5, "beta_sigma": 0.5, "gamma": 0.3, "gamma_sigma": 0.7},
        {"beta": 1.0, "gamma": 0.0},
    ],
)
@pytest.mark.parametrize("m", [1, 2, 5])
def test_many_steps_are_those_of_the_published_algorithm(
    m: int, settings: dict[str, float]
) -> None:
    method = jd.aggregator("moco", **settings)
    jacobians = [rows(step, m) for step in range(30)]
    for jacobian, expected in zip(jacobians, published(jacobians, **settings), strict=True):
        torch.testing.assert_close(method(jacobian), expected, rtol=1e-9, atol=1e-11)


def test_e22_on_fixed_gradients_the_weights_are_the_min_norm_points() -> None:
    # LibMTL's softmax converges to 0.4996 and 0.5004 here, the min-norm point is 0.2 and 0.8.
    jacobian = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    method = jd.aggregator("moco", rho=0.0)
    for _ in range(500):
        direction = method(jacobian)
    expected = min_norm_weights(jacobian @ jacobian.T)
    torch.testing.assert_close(method.weights, expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(direction, expected @ jacobian, rtol=1e-8, atol=0)


def test_e22_a_weight_can_be_exactly_zero() -> None:
    jacobian = torch.tensor([[5.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    method = jd.aggregator("moco")
    for _ in range(200):
        method(jacobian)
    assert method.weights.tolist() == [0.0, 1.0]


def test_the_noise_of_the_gradients_is_averaged_out() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    method = jd.aggregator("moco", beta=0.02, gamma=0.02, rho=0.0)
    updates = []
    for _ in range(2000):
        noise = torch.randn(2, 2, generator=generator, dtype=torch.float64)
        updates.append(method(exact + noise))
    expected = min_norm_weights(exact @ exact.T) @ exact
    error = (torch.stack(updates[500:]).mean(0) - expected).norm()
    assert error <= 0.1 * expected.norm()


def test_the_first_update_is_beta_times_the_mean_gradient() -> None:
    jacobian = torch.nn.functional.normalize(rows(0))
    direction = jd.aggregator("moco", beta=0.25, gamma=0.0)(jacobian)
    torch.testing.assert_close(direction, 0.25 * jacobian.mean(0))


def test_it_is_an_aggregator_since_it_combines_what_it_tracks() -> None:
    assert jd.describe("moco").kinds == ("aggregator",)
    assert jd.describe("moco").needs == {"jacobian"}
    method = jd.aggregator("moco")
    method(torch.tensor([[1.0, 0.0]]))
    # The second gradient is not even in the direction's span.
    assert method(torch.tensor([[0.0, 1.0]]))[0] != 0.0


def test_each_gradient_may_be_given_the_length_of_its_loss() -> None:
    losses = torch.tensor([3.0, 0.5, 0.0], dtype=torch.float64)
    jacobian = rows(0)
    scaled = torch.nn.functional.normalize(jacobian) * losses[:, None]
    method, plain = jd.aggregator("moco", normalize="loss"), jd.aggregator("moco")
    assert method.needs == {"jacobian", "losses"}
    for _ in range(3):
        torch.testing.assert_close(method(jacobian, losses=losses), plain(scaled))
    jacobian[1] = 0.0
    assert method(jacobian, losses=losses).isfinite().all()
    with pytest.raises(ValueError, match="moco needs the losses beside the gradients"):
        method(jacobian)


@pytest.mark.parametrize("factor", [torch.nan, torch.inf, 1e200])
def test_what_is_not_finite_or_overflows_leaves_no_trace(factor: float) -> None:
    method, control = jd.aggregator("moco"), jd.aggregator("moco")
    assert method(rows(0) * factor).isnan().all()
    for step in range(3):
        assert torch.equal(method(rows(step)), control(rows(step)))


@pytest.mark.parametrize("shape", [(2, 6), (3, 7)])
def test_a_jacobian_of_another_shape_is_refused_until_reset(shape: tuple[int, int]) -> None:
    method = jd.aggregator("moco")
    method(rows(0))
    with pytest.raises(jd.ConfigError, match=r"tracked of shape \[3, 6\].*call reset\(\)"):
        method(rows(0, *shape))
    method.reset()
    assert method(rows(0, *shape)).shape == shape[1:]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
def test_many_steps_on_every_family_stay_finite(family: Any) -> None:
    for m in (1, 3, 6):
        method = jd.aggregator("moco")
        for step in range(20):
            assert method(family(m, step)).isfinite().all()
        assert method.weights.sum().item() == pytest.approx(1.0, rel=1e-12)


def new_run() -> tuple[jd.Descent, torch.nn.Module, torch.nn.Module]:
    pytest.importorskip("jd_plugin_autojac")
    torch.manual_seed(0)
    trunk, heads = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
    return jd.Descent(trunk, "moco", engine="autojac"), trunk, heads


def trained(run: tuple[jd.Descent, Any, Any], steps: range) -> list[Tensor]:
    descent, trunk, heads = run
    for step in steps:
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        features = trunk(inputs)
        descent.backward(heads(features).square().mean(0), features=features)
        with torch.no_grad():
            for parameter in (*trunk.parameters(), *heads.parameters()):
                parameter.sub_(parameter.grad, alpha=0.1)
                parameter.grad = None
    return [p.detach().clone() for p in (*trunk.parameters(), *heads.parameters())]


def test_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    expected = trained(new_run(), range(10))
    run = new_run()
    trained(run, range(5))
    torch.save([part.state_dict() for part in run], tmp_path / "saved.pt")
    run = new_run()
    for part, state in zip(run, torch.load(tmp_path / "saved.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert all(map(torch.equal, trained(run, range(5, 10)), expected))


def test_without_features_what_is_outside_of_the_modules_is_refused() -> None:
    descent, trunk, heads = new_run()
    losses = heads(trunk(torch.ones(8, 3))).square().mean(0)
    with pytest.raises(jd.UnsupportedModelError, match="features"):
        descent.backward(losses)


@pytest.mark.parametrize(
    "setting",
    [{"beta": 0.0}, {"beta": 1.1}, {"gamma": -1.0}, {"rho": -1.0}, {"normalize": "l3"}],
)
def test_impossible_settings_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(jd.ConfigError, match=f"moco: {next(iter(setting))} = "):
        jd.aggregator("moco", **setting)
