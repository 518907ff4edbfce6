"""SDMGrad: projected steps with momentum, on the product of two batches' gradients."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.linalg import min_norm_weights
from jdframework.testing import FAMILIES, WeightingSuite

BENIGN = ["random", "orthogonal", "rank-deficient", "fewer columns than rows", "one zero row"]


def nearest_on_simplex(point: Tensor) -> Tensor:
    """By trying each support, largest entries first: the largest that stays positive."""
    ordered = sorted(point.tolist(), reverse=True)
    for size in range(len(ordered), 0, -1):
        level = (sum(ordered[:size]) - 1) / size
        if ordered[size - 1] > level or size == 1:
            return (point - level).clamp(min=0.0)
    raise AssertionError


def published(
    matrix: Tensor, weights: Tensor, lr: float, momentum: float, n_iter: int, wanted: Tensor
) -> Tensor:
    """The published inner loop, on the product scaled as section 6.1 says."""
    length = torch.stack([entry.clamp(min=0.0).sqrt() for entry in matrix.diagonal()]).mean()
    velocity = torch.zeros_like(weights)
    for _ in range(n_iter):
        velocity = momentum * velocity + matrix / length**2 @ (weights + wanted)
        weights = nearest_on_simplex(weights - lr * velocity)
    return weights


class TestSDMGrad(WeightingSuite):
    spec = "sdmgrad"


class TestSDMGradWithSmallSteps(WeightingSuite):
    """Where the steps do not jump to and fro, what most weightings promise holds."""

    spec: ClassVar[Mapping[str, Any]] = {"name": "sdmgrad", "lr": 0.1, "lambda_": 0.6}
    permutation_equivariant = True
    scale = "equivariant"
    optimality_tolerance = 1e-9

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The same as the published loop, written down in another way."""
        if not bool((gramian.diagonal() > 0).any()):
            return 0.0
        m = len(gramian)
        start = torch.full((m,), 1 / m, dtype=torch.float64)
        expected = published(gramian, start, 0.1, 0.5, 20, 0.6 * start)
        return float((weights - (expected + 0.6 * start) / 1.6).abs().max())


def cross(seed: int, m: int = 4, scale: float = 1.0) -> Tensor:
    """``J₁ J₂ᵀ`` of two batches whose gradients are alike."""
    first, noise = FAMILIES["random"](m, seed), FAMILIES["random"](m, seed + 1000)
    return scale * first @ (first + 0.5 * noise).T


@pytest.mark.parametrize("m", [1, 2, 5, 9])
@pytest.mark.parametrize(
    "settings", [{}, {"lr": 1.0, "momentum": 0.0}, {"n_iter": 3}, {"lambda_": 0.0}]
)
def test_many_calls_are_those_of_the_published_algorithm(m: int, settings: dict[str, Any]) -> None:
    used = {"lr": 10.0, "momentum": 0.5, "n_iter": 20, "lambda_": 0.3} | settings
    wanted = torch.full((m,), used.pop("lambda_") / m, dtype=torch.float64)
    method = jd.weighting("sdmgrad", **settings)
    weights = torch.full((m,), 1 / m, dtype=torch.float64)
    for step in range(10):
        found = method(cross(step, m))
        weights = published(cross(step, m), weights, wanted=wanted, **used)
        expected = (weights + wanted) / (1 + float(wanted.sum()))
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_preferences_draw_the_update_towards_their_direction() -> None:
    preferences = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)
    strong = jd.weighting("sdmgrad", lambda_=1e9, pref_vector=preferences)
    torch.testing.assert_close(strong(cross(0)), preferences, rtol=1e-6, atol=1e-6)
    with pytest.raises(jd.ConfigError, match="pref_vector has 4 values, but there are 3"):
        strong(cross(0, m=3))


def square(gramian: Tensor, weights: Tensor) -> float:
    return float(weights @ gramian @ weights)


def least_square(gramian: Tensor, lambda_: float) -> float:
    """The least that ``‖Jᵀ(w + λb)‖²`` can be, as a min-norm problem of the rows ``gᵢ + λ Jᵀb``."""
    m = len(gramian)
    mean = torch.full((m,), 1 / m, dtype=torch.float64)
    shift = lambda_ * gramian @ mean
    shifted = gramian + shift + shift[:, None] + lambda_ * (shift @ mean)
    return square(gramian, min_norm_weights(shifted) + lambda_ * mean)


def mean_excess(m: int, **settings: float) -> float:
    """By what factor one call on a fixed Gramian misses the least square, on average."""
    factors = []
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        jacobian = torch.randn(m, 20, generator=generator, dtype=torch.float64)
        gramian = jacobian @ jacobian.T
        weights = 1.3 * jd.weighting("sdmgrad", lambda_=0.3, **settings)(gramian)
        factors.append(square(gramian, weights) / least_square(gramian, 0.3))
    return sum(factors) / len(factors)


@pytest.mark.parametrize(("m", "low", "high"), [(2, 1.5, 2.2), (5, 3.5, 5), (10, 10, 15)])
def test_the_published_steps_miss_the_deterministic_limit_as_documented(
    m: int, low: float, high: float
) -> None:
    assert low <= mean_excess(m) <= high


@pytest.mark.parametrize("m", [2, 5, 10])
def test_smaller_steps_reach_the_deterministic_limit_in_one_call(m: int) -> None:
    assert mean_excess(m, lr=0.5) <= 1 + 1e-3


@pytest.mark.parametrize("family", BENIGN)
@pytest.mark.parametrize("factor", [1e-12, 1e-3, 1e3, 1e12])
def test_small_gradients_get_the_weights_of_large_ones(family: str, factor: float) -> None:
    for m in (2, 3, 7):
        jacobian = FAMILIES[family](m)
        matrix = jacobian @ (jacobian + 0.1 * jacobian.roll(1, dims=1)).T
        expected = jd.weighting("sdmgrad")(matrix)
        found = jd.weighting("sdmgrad")(factor**2 * matrix)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_where_all_batches_disagree_the_weights_stay_finite_at_any_scale() -> None:
    for scale in (1e-24, 1.0, 1e24):
        matrix = -scale * torch.tensor([[1.0, 0.5], [0.2, 3.0]], dtype=torch.float64)
        found = jd.weighting("sdmgrad", lr=0.1)(matrix)
        torch.testing.assert_close(found, jd.weighting("sdmgrad", lr=0.1)(matrix / scale))


def test_zero_gradients_leave_the_weights_equal() -> None:
    assert jd.weighting("sdmgrad")(torch.zeros(4, 4)).tolist() == [0.25] * 4


def test_the_weights_load_strictly_into_a_fresh_instance_from_a_file() -> None:
    method = jd.weighting("sdmgrad")
    for step in range(3):
        method(cross(step))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    fresh = jd.weighting("sdmgrad")
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(fresh(cross(3)), method(cross(3)))


def test_another_number_of_objectives_is_refused_until_reset() -> None:
    method = jd.weighting("sdmgrad")
    method(cross(0, m=4))
    with pytest.raises(jd.ConfigError, match=r"sdmgrad remembers weights .* call reset\(\) first"):
        method(cross(0, m=3))
    method.reset()
    assert torch.equal(method(cross(0, m=3)), jd.weighting("sdmgrad")(cross(0, m=3)))


def test_a_product_that_is_not_finite_leaves_the_weights_as_they_were() -> None:
    method = jd.weighting("sdmgrad")
    method(cross(0))
    before = method.weights.clone()
    assert method(cross(1) * torch.nan).isnan().all()
    assert torch.equal(method.weights, before)


@pytest.mark.parametrize(
    "setting", [{"lr": 0.0}, {"momentum": 1.0}, {"n_iter": 0}, {"lambda_": -0.1}]
)
def test_impossible_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(jd.ConfigError, match=f"sdmgrad: {next(iter(setting))} = "):
        jd.weighting("sdmgrad", **setting)


def test_it_says_that_it_needs_a_cross_gramian_of_two_more_batches() -> None:
    assert jd.describe("sdmgrad").needs == {"cross-gramian"}
    assert jd.weighting("sdmgrad").independent_batches == (2,)


@pytest.mark.parametrize("m", [2, 3, 8])
@pytest.mark.parametrize("settings", [{}, {"lr": 0.5, "momentum": 0.0}, {"n_iter": 5}])
def test_torchjd_gives_the_same_weights(m: int, settings: dict[str, Any]) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    ours, theirs = jd.weighting("sdmgrad", **settings), aggregation.SDMGradWeighting(**settings)
    for step in range(10):
        found, expected = ours(cross(step, m)), theirs(cross(step, m))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_torchjd_gives_small_gradients_other_weights_and_we_do_not() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    theirs = [aggregation.SDMGradWeighting()(cross(0, scale=scale)) for scale in (1.0, 1e-10)]
    assert (theirs[0] - theirs[1]).abs().max() > 1e-2, "torchjd has mended this"
    ours = [jd.weighting("sdmgrad")(cross(0, scale=scale)) for scale in (1.0, 1e-10)]
    torch.testing.assert_close(*ours)


def test_torchjds_saved_weights_do_not_load_and_ours_do() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    theirs = aggregation.SDMGradWeighting()
    theirs(cross(0))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        aggregation.SDMGradWeighting().load_state_dict(theirs.state_dict())
    ours = jd.weighting("sdmgrad")
    ours(cross(0))
    jd.weighting("sdmgrad").load_state_dict(ours.state_dict())
