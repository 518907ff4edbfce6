"""Nash-MTL: the bargaining equations, solved, at any scale; the weights in between, kept."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pytest
import torch
from hypothesis import given
from torch import Tensor

import jdframework as jd
from jdframework.linalg import min_norm_weights, normalised
from jdframework.testing import FAMILIES, WeightingSuite
from jdframework.testing.strategies import REPEATABLE, gramians

ROUNDING = 2.0**-52


def residual(gramian: Tensor, weights: Tensor) -> float:
    """How much ``a_i (Ga)_i`` vary, beyond rounding; where all are zero, whether they must be."""
    cosines, norms = normalised(gramian)
    present = norms > 0
    found = [float(weights[~present].abs().sum())]
    if weights.any():
        used, rest = weights[present], gramian[present][:, present]
        products = used * (rest @ used)
        size = products.mean()
        rounding = 8 * len(used) * ROUNDING * used * (rest.abs() @ used) / size
        found += [float(((products / size - 1).abs() - rounding).max()), float((used <= 0).sum())]
    elif present.any():
        unit = cosines[present][:, present]
        shortest = min_norm_weights(unit)
        found.append(float(shortest @ unit @ shortest) / 1e6)
    return max(found)


class TestNashMTL(WeightingSuite):
    spec: ClassVar[str | Mapping[str, Any]] = "nash-mtl"
    scale: ClassVar[Literal["equivariant", "invariant"] | None] = "invariant"

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The bargaining equations."""
        return residual(gramian, weights)


class TestNashMTLNowAndThen(TestNashMTL):
    spec: ClassVar[Mapping[str, Any]] = {"name": "nash-mtl", "update_weights_every": 3}


def gramian_of(seed: int, m: int = 4) -> Tensor:
    jacobian = FAMILIES["random"](m, seed)
    return jacobian @ jacobian.T


@pytest.mark.parametrize("m", [1, 2, 5, 20])
@pytest.mark.parametrize("factor", [1e-12, 1e-4, 1.0, 1e6])
def test_the_bargaining_equations_hold(m: int, factor: float) -> None:
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        jacobian = torch.randn(m, 3 * m, generator=generator, dtype=torch.float64) * factor
        gramian = jacobian @ jacobian.T
        weights = jd.weighting("nash-mtl", max_norm=0)(gramian)
        products = weights * (gramian @ weights)
        torch.testing.assert_close(products, torch.ones_like(products), rtol=1e-8, atol=0.0)
        assert float((weights @ jacobian).norm()) == pytest.approx(math.sqrt(m))


@REPEATABLE
@given(gramians())
def test_any_gramian_is_solved(gramian: Tensor) -> None:
    assert residual(gramian, jd.weighting("nash-mtl")(gramian)) <= 1e-8


def test_orthogonal_gradients_are_weighted_by_their_inverse_norms() -> None:
    gramian = torch.diag(torch.tensor([1e-12, 1.0, 1e12], dtype=torch.float64))
    expected = torch.tensor([1e6, 1.0, 1e-6], dtype=torch.float64)
    torch.testing.assert_close(jd.weighting("nash-mtl", max_norm=0)(gramian), expected)


@pytest.mark.parametrize(("max_norm", "length"), [(1.0, 1.0), (0.1, 0.1), (1.9, 1.9), (5.0, 2.0)])
def test_the_update_is_shortened_to_the_largest_norm(max_norm: float, length: float) -> None:
    jacobian = FAMILIES["random"](4)
    weights = jd.weighting("nash-mtl", max_norm=max_norm)(jacobian @ jacobian.T)
    assert float((weights @ jacobian).norm()) == pytest.approx(length)


@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_at_a_pareto_stationary_point_all_weights_are_zero(max_norm: float) -> None:
    row = FAMILIES["random"](1)
    for jacobian in (
        torch.cat([row, -row]),
        torch.cat([row, -3e6 * row, FAMILIES["random"](1, 1)]),
        torch.zeros(3, 2, dtype=torch.float64),
    ):
        assert not jd.weighting("nash-mtl", max_norm=max_norm)(jacobian @ jacobian.T).any()


def test_a_zero_gradient_gets_no_weight_and_stops_nobody() -> None:
    gramian = gramian_of(0, m=3)
    padded = torch.zeros(4, 4, dtype=torch.float64)
    padded[:3, :3] = gramian
    weights = jd.weighting("nash-mtl")(padded)
    torch.testing.assert_close(weights[:3], jd.weighting("nash-mtl")(gramian))
    assert weights[3] == 0.0


def test_weights_are_used_again_until_the_next_update() -> None:
    method = jd.weighting("nash-mtl", max_norm=0, update_weights_every=3)
    found = [method(gramian_of(step)) for step in range(7)]
    for step, weights in enumerate(found):
        solved = jd.weighting("nash-mtl", max_norm=0)(gramian_of(step - step % 3))
        assert torch.equal(weights, solved)


def test_reused_weights_are_shortened_to_the_present_gradients() -> None:
    method = jd.weighting("nash-mtl", update_weights_every=2)
    method(gramian_of(0))
    gramian = 100 * gramian_of(1)
    weights = method(gramian)
    assert float(weights @ gramian @ weights) == pytest.approx(1.0)


def test_the_weights_in_use_survive_a_checkpoint() -> None:
    method = jd.weighting("nash-mtl", update_weights_every=4)
    for step in range(2):
        method(gramian_of(step))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    fresh = jd.weighting("nash-mtl", update_weights_every=4)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    for step in range(2, 10):
        assert torch.equal(fresh(gramian_of(step)), method(gramian_of(step)))


def test_a_gramian_with_nan_is_not_kept() -> None:
    method = jd.weighting("nash-mtl", update_weights_every=10)
    assert method(gramian_of(0) * torch.nan).isnan().all()
    assert torch.equal(method(gramian_of(1)), jd.weighting("nash-mtl")(gramian_of(1)))


def test_reused_weights_of_another_number_of_objectives_are_refused() -> None:
    method = jd.weighting("nash-mtl", update_weights_every=2)
    method(gramian_of(0, m=4))
    with pytest.raises(jd.ConfigError, match=r"weights for 4 objectives .* there are 3"):
        method(gramian_of(0, m=3))
    method.reset()
    assert method(gramian_of(0, m=3)).isfinite().all()


def test_without_reuse_the_number_of_objectives_may_change() -> None:
    method = jd.weighting("nash-mtl")
    assert [len(method(gramian_of(0, m=m))) for m in (4, 2, 6)] == [4, 2, 6]


@pytest.mark.parametrize(
    "setting", [{"max_norm": -1.0}, {"update_weights_every": 0}, {"max_norm": float("inf")}]
)
def test_impossible_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(jd.ConfigError, match=f"nash-mtl: {next(iter(setting))} = "):
        jd.weighting("nash-mtl", **setting)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # cvxpy's, of the peer
def test_torchjd_agrees_on_two_well_scaled_objectives() -> None:
    pytest.importorskip("cvxpy")
    pytest.importorskip("ecos")
    aggregation = pytest.importorskip("torchjd.aggregation")
    for seed in range(5):
        jacobian = FAMILIES["orthogonal"](2, seed)
        theirs = aggregation.NashMTL(n_tasks=2)(jacobian)
        ours = jd.aggregator("nash-mtl")(jacobian)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
