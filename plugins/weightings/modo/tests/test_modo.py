"""MoDo: one projected step a call, on the product of two batches' gradients."""

from __future__ import annotations

import io
from typing import ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import FAMILIES, WeightingSuite


def projection_residual(point: Tensor, found: Tensor) -> float:
    """By how much ``found`` fails to be the nearest point of the simplex, relative to ``point``.

    On the support all entries are moved by one and the same amount, elsewhere by less.
    """
    moved = point - found
    scale = max(1.0, float(point.abs().max()))
    level = moved[found > 0].max()
    uneven = (moved[found > 0] - level).abs().max()
    beyond = (moved - level).clamp(min=0.0).max()
    outside = (found.sum() - 1).abs() + (-found).clamp(min=0.0).max()
    return float((uneven + beyond) / scale + outside)


class TestMoDo(WeightingSuite):
    spec = "modo"
    optimality_tolerance: ClassVar[float] = 1e-12

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The first step is the projection of where the slope leads from equal weights."""
        start = torch.full_like(weights, 1 / len(weights))
        return projection_residual(start - 0.1 * (gramian @ start + 0.1 * start), weights)


def cross(seed: int, m: int = 4, scale: float = 0.3) -> Tensor:
    """``J₁ J₂ᵀ`` of two batches whose gradients are alike."""
    first, noise = FAMILIES["random"](m, seed), FAMILIES["random"](m, seed + 1000)
    return scale * first @ (first + 0.5 * noise).T


@pytest.mark.parametrize("m", [1, 2, 5, 9])
@pytest.mark.parametrize(("gamma", "rho"), [(0.1, 0.1), (0.02, 0.0), (3.0, 0.5)])
def test_each_step_is_the_projected_one_of_the_paper(m: int, gamma: float, rho: float) -> None:
    method = jd.weighting("modo", gamma=gamma, rho=rho)
    before = torch.full((m,), 1 / m, dtype=torch.float64)
    for step in range(20):
        matrix = cross(step, m)
        after = method(matrix)
        point = before - gamma * (matrix @ before + rho * before)
        assert projection_residual(point, after) <= 1e-12
        before = after


def test_a_cross_gramian_is_not_taken_for_symmetric() -> None:
    matrix = cross(0)
    first, second = jd.weighting("modo"), jd.weighting("modo")
    start = torch.full((4,), 0.25, dtype=torch.float64)
    point = start - 0.1 * (matrix.T @ start + 0.1 * start)
    assert projection_residual(point, first(matrix.T)) <= 1e-12
    assert not torch.allclose(first.weights, second(matrix))


def test_on_one_gramian_the_steps_end_at_the_regularised_min_norm_point() -> None:
    matrix = cross(3)
    matrix = matrix @ matrix.T / matrix.square().sum()
    method = jd.weighting("modo", gamma=1.0, rho=0.05)
    for _ in range(2000):
        found = method(matrix)
    slope = matrix @ found + 0.05 * found
    assert projection_residual(found - slope, found) <= 1e-10


def test_the_weights_load_strictly_into_a_fresh_instance_from_a_file() -> None:
    method = jd.weighting("modo")
    for step in range(3):
        method(cross(step))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    fresh = jd.weighting("modo")
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(fresh(cross(3)), method(cross(3)))


def test_another_number_of_objectives_is_refused_until_reset() -> None:
    method = jd.weighting("modo")
    method(cross(0, m=4))
    with pytest.raises(jd.ConfigError, match=r"modo remembers weights .* call reset\(\) first"):
        method(cross(0, m=3))
    method.reset()
    assert torch.equal(method(cross(0, m=3)), jd.weighting("modo")(cross(0, m=3)))


def test_a_product_that_is_not_finite_leaves_the_weights_as_they_were() -> None:
    method = jd.weighting("modo")
    before = method(cross(0))
    assert method(cross(1) * torch.nan).isnan().all()
    assert torch.equal(method.weights, before)


@pytest.mark.parametrize("scale", [1e8, 1e20])
def test_large_gradients_do_not_push_the_weights_off_the_simplex(scale: float) -> None:
    found = jd.weighting("modo")(cross(0) * scale)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-12)
    assert found.min() >= 0.0


@pytest.mark.parametrize(
    "setting", [{"gamma": 0.0}, {"gamma": float("inf")}, {"rho": -0.1}, {"rho": float("nan")}]
)
def test_impossible_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(jd.ConfigError, match=f"modo: {next(iter(setting))} = "):
        jd.weighting("modo", **setting)


def test_it_says_that_it_needs_a_cross_gramian_of_one_batch_or_two_more() -> None:
    assert jd.describe("modo").needs == {"cross-gramian"}
    assert jd.weighting("modo").independent_batches == (1, 2)


@pytest.mark.parametrize("m", [2, 3, 8])
@pytest.mark.parametrize("settings", [{}, {"gamma": 0.01, "rho": 0.0}, {"gamma": 2.0}])
def test_torchjd_gives_the_same_weights(m: int, settings: dict[str, float]) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    ours, theirs = jd.weighting("modo", **settings), aggregation.MoDoWeighting(**settings)
    for step in range(10):
        matrix = cross(step, m)
        torch.testing.assert_close(ours(matrix), theirs(matrix), rtol=1e-5, atol=1e-8)


def test_torchjds_saved_weights_do_not_load_and_ours_do() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    theirs = aggregation.MoDoWeighting()
    theirs(cross(0))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        aggregation.MoDoWeighting().load_state_dict(theirs.state_dict())
    ours = jd.weighting("modo")
    ours(cross(0))
    jd.weighting("modo").load_state_dict(ours.state_dict())


def test_torchjd_leaves_the_simplex_for_large_gradients_and_we_do_not() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    matrix = cross(0) * 1e20
    theirs = aggregation.MoDoWeighting()(matrix)
    assert abs(float(theirs.sum()) - 1.0) > 1e-3, "torchjd has mended this"
    assert float(jd.weighting("modo")(matrix).sum()) == pytest.approx(1.0, abs=1e-12)
