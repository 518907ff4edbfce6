"""FairGrad: the fairness equations, solved, for every alpha and at any scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import jdframework as jd
from jdframework.linalg import min_norm_weights, normalised
from jdframework.testing import FAMILIES, WeightingSuite
from jdframework.testing.strategies import REPEATABLE, gramians

ROUNDING = 2.0**-52
ALPHAS = (0.1, 0.5, 1.0, 2.0, 5.0)


def residual(gramian: Tensor, weights: Tensor, alpha: float) -> float:
    """By how much the equations fail, beyond rounding; where all are zero, whether they must be."""
    cosines, norms = normalised(gramian)
    present = norms > 0
    found = [float(weights[~present].abs().sum())]
    if weights.any():
        used, rest = weights[present], gramian[present][:, present]
        factor = used ** (1 / alpha)
        rounding = 8 * len(used) * ROUNDING * (rest.abs() @ used) * factor
        off = ((rest @ used) * factor - 1).abs() - rounding
        found += [float(off.max()), float((used <= 0).sum())]
    elif present.any():
        unit = cosines[present][:, present]
        shortest = min_norm_weights(unit)
        found.append(float(shortest @ unit @ shortest) / 1e6)
    return max(found)


class TestFairGrad(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "fairgrad", "alpha": 2.0}

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The equations of alpha-fairness."""
        return residual(gramian, weights, 2.0)


class TestFairGradThatIsProportional(TestFairGrad):
    spec: ClassVar[Mapping[str, Any]] = {"name": "fairgrad", "alpha": 1.0}
    scale: ClassVar[Literal["equivariant", "invariant"] | None] = "invariant"

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """Those of Nash's bargaining solution."""
        return residual(gramian, weights, 1.0)


class TestFairGradThatIsTheMean(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "fairgrad", "alpha": 0.0}

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """All weights alike."""
        return float((weights - 1 / len(gramian)).abs().max())


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_equations_hold_for_every_alpha(family: str, alpha: float) -> None:
    for m in (1, 2, 5, 20):
        jacobian = FAMILIES[family](m)
        gramian = jacobian @ jacobian.T
        found = jd.weighting("fairgrad", alpha=alpha)(gramian)
        assert residual(gramian, found, alpha) <= 1e-8, m


@REPEATABLE
@given(gramians(), st.sampled_from(ALPHAS))
def test_any_gramian_is_solved(gramian: Tensor, alpha: float) -> None:
    assert residual(gramian, jd.weighting("fairgrad", alpha=alpha)(gramian), alpha) <= 1e-8


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1e-3, 1e3, 1e6, 1e12])
def test_scaling_the_jacobian_scales_the_update_by_a_known_power(
    factor: float, alpha: float
) -> None:
    jacobian = FAMILIES["random"](5)
    method = jd.aggregator("fairgrad", alpha=alpha)
    expected = method(jacobian) * factor ** ((1 - alpha) / (1 + alpha))
    found = method(factor * jacobian)
    assert float((found - expected).norm()) <= 1e-8 * float(expected.norm())


@pytest.mark.parametrize("alpha", ALPHAS)
def test_no_direction_of_the_same_length_is_fairer(alpha: float) -> None:
    jacobian = FAMILIES["random"](4)
    generator = torch.Generator().manual_seed(0)
    update = jd.aggregator("fairgrad", alpha=alpha)(jacobian)

    def fairness(direction: Tensor) -> float:
        gains = jacobian @ direction
        if (gains <= 0).any():
            return -torch.inf
        return float(
            gains.log().sum() if alpha == 1 else (gains ** (1 - alpha) / (1 - alpha)).sum()
        )

    best = fairness(update)
    for size in (1e-3, 1e-1, 1.0):
        for _ in range(50):
            other = update + size * torch.randn(10, generator=generator, dtype=torch.float64)
            assert fairness(other * update.norm() / other.norm()) < best


def test_a_large_alpha_makes_all_improvements_alike() -> None:
    jacobian = FAMILIES["random"](4)
    gains = jacobian @ jd.aggregator("fairgrad", alpha=10.0)(jacobian)
    less = jacobian @ jd.aggregator("fairgrad", alpha=0.5)(jacobian)
    assert float(gains.max() / gains.min()) < 2 < float(less.max() / less.min())


@pytest.mark.parametrize("alpha", ALPHAS)
def test_at_a_pareto_stationary_point_all_weights_are_zero(alpha: float) -> None:
    row = FAMILIES["random"](1)
    for jacobian in (
        torch.cat([row, -row]),
        torch.cat([row, -3e6 * row, FAMILIES["random"](1, 1)]),
        torch.zeros(3, 2, dtype=torch.float64),
    ):
        assert not jd.weighting("fairgrad", alpha=alpha)(jacobian @ jacobian.T).any()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_zero_gradient_gets_no_weight_and_stops_nobody(alpha: float) -> None:
    jacobian = FAMILIES["random"](3)
    padded = torch.cat([jacobian, torch.zeros(1, jacobian.shape[1], dtype=torch.float64)])
    method = jd.weighting("fairgrad", alpha=alpha)
    found = method(padded @ padded.T)
    torch.testing.assert_close(found[:3], method(jacobian @ jacobian.T))
    assert found[3] == 0.0


@pytest.mark.parametrize("alpha", [1e-300, 1e-3, 1e3, 1e300])
def test_an_extreme_alpha_is_solved_or_is_a_solver_error(alpha: float) -> None:
    for family in ("random", "badly scaled", "one column"):
        jacobian = FAMILIES[family](7)
        try:
            found = jd.weighting("fairgrad", alpha=alpha)(jacobian @ jacobian.T)
        except jd.SolverError:
            continue
        assert found.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -1.0}, "alpha = -1.0"),
        ({"alpha": float("nan")}, "alpha = nan"),
        ({"alpha": float("inf")}, "alpha = inf"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(jd.ConfigError, match=message):
        jd.weighting("fairgrad", **settings)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
def test_torchjd_agrees_on_well_scaled_gradients(alpha: float) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    for seed in range(5):
        jacobian = FAMILIES["orthogonal"](4, seed)
        gramian = jacobian @ jacobian.T
        theirs = aggregation.FairGradWeighting(alpha=alpha)(gramian)
        ours = jd.weighting("fairgrad", alpha=alpha)(gramian)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_torchjd_stops_early_on_small_gradients() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = 2e-4 * FAMILIES["random"](4)
    gramian = jacobian @ jacobian.T
    assert residual(gramian, aggregation.FairGradWeighting(alpha=1.0)(gramian), 1.0) > 0.1
    assert residual(gramian, jd.weighting("fairgrad", alpha=1.0)(gramian), 1.0) <= 1e-8
