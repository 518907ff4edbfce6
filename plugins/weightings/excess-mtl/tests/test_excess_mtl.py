"""ExcessMTL: the authors' algorithm, at any scale, and never one-hot for ever."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import FAMILIES, WeightingSuite


class TestExcessMTL(WeightingSuite):
    spec = "excess-mtl"

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The first call's weights are equal."""
        return float((weights - 1 / len(weights)).abs().max())


class TestExcessMTLWithAWarmup(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "excess-mtl", "n_warmup_steps": 2}


def rows(seed: int, m: int = 3, n: int = 20) -> Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uneven(seed: int, m: int = 3) -> Tensor:
    """Rows whose norms shrink at their own rates."""
    rates = torch.linspace(0.5, 1.0, m, dtype=torch.float64) ** seed
    return rates[:, None] * rows(seed, m)


def published(jacobians: list[Tensor], eta: float, warmup: int = 1) -> list[Tensor]:
    """The weights of every step, by the paper's formulas; the first calls update nothing."""
    squares = torch.zeros_like(jacobians[0])
    weights = torch.full((len(squares),), 1 / len(squares), dtype=torch.float64)
    risks, found = [], []
    for step, jacobian in enumerate(jacobians):
        squares += jacobian**2
        risks.append((jacobian**2 / squares.sqrt()).sum(1))
        if step >= warmup:
            first = torch.stack(risks[:warmup]).mean(0)
            weights = weights * (eta * risks[-1] / first).exp()
            weights = weights / weights.sum()
        found.append(weights)
    return found


@pytest.mark.parametrize("warmup", [1, 4])
@pytest.mark.parametrize("eta", [0.01, 1.0])
@pytest.mark.parametrize("m", [1, 2, 3, 7])
def test_many_steps_are_the_papers(m: int, eta: float, warmup: int) -> None:
    method = jd.weighting("excess-mtl", robust_step_size=eta, n_warmup_steps=warmup)
    jacobians = [uneven(step, m) for step in range(20)]
    for jacobian, expected in zip(jacobians, published(jacobians, eta, warmup), strict=True):
        torch.testing.assert_close(method(jacobian), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("warmup", [1, 3])
def test_after_a_warmup_the_weights_are_torchjds(warmup: int) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    ours = jd.weighting("excess-mtl", n_warmup_steps=warmup)
    theirs = aggregation.ExcessMTLWeighting(n_warmup_steps=warmup)
    for step in range(20):
        jacobian = rows(step)
        torch.testing.assert_close(ours(jacobian), theirs(jacobian), rtol=1e-5, atol=1e-5)


def test_e17_the_first_call_gives_equal_weights_where_torchjds_is_one_hot() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = torch.tensor(
        [[1.1], [1.0], [1.0]], dtype=torch.float64
    ) * torch.nn.functional.normalize(rows(0, 3, 10_000))
    assert aggregation.ExcessMTLWeighting()(jacobian).max() > 0.99, "torchjd has mended this"
    method = jd.weighting("excess-mtl")
    assert method(jacobian).tolist() == pytest.approx([1 / 3] * 3, rel=1e-12)
    assert method(jacobian).max() < 0.4


def test_the_objective_that_converges_slowest_gets_the_most_weight() -> None:
    method = jd.weighting("excess-mtl", robust_step_size=0.1)
    for step in range(30):
        weights = method(uneven(step))
    assert weights[0] < weights[1] < weights[2]
    assert weights.sum().item() == pytest.approx(1.0, rel=1e-12)


def test_no_warmup_is_a_warmup_of_one_call() -> None:
    first, second = (jd.weighting("excess-mtl", n_warmup_steps=n) for n in (0, 1))
    for step in range(5):
        assert torch.equal(first(uneven(step)), second(uneven(step)))


def test_a_warmup_gives_equal_weights() -> None:
    method = jd.weighting("excess-mtl", n_warmup_steps=4)
    for step in range(4):
        assert method(uneven(step)).tolist() == pytest.approx([1 / 3] * 3, rel=1e-12)
    assert method(uneven(4)).tolist() != pytest.approx([1 / 3] * 3, rel=1e-6)


def test_no_weight_falls_below_its_floor_and_it_comes_back() -> None:
    method = jd.weighting("excess-mtl", robust_step_size=5.0, min_weight=1e-3)
    fresh, solved = torch.ones(2, 4, dtype=torch.float64), torch.ones(2, 4, dtype=torch.float64)
    solved[0] = 0.0
    method(fresh)
    for _ in range(200):
        weights = method(solved)
    assert weights.tolist() == pytest.approx([1e-3, 1 - 1e-3], rel=2e-3)
    back = fresh.clone()
    back[1] = 0.0
    for _ in range(10):
        weights = method(back)
    assert weights[0] > 0.9


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_gradients_have_the_weights_of_large_ones(factor: float, dtype: torch.dtype) -> None:
    method, scaled = (jd.weighting("excess-mtl") for _ in range(2))
    for step in range(6):
        jacobian = uneven(step).to(dtype)
        expected = method(jacobian)
        torch.testing.assert_close(scaled(factor * jacobian), expected, rtol=1e-4, atol=0)


def test_squares_that_single_precision_cannot_hold_change_nothing() -> None:
    small, large = (jd.weighting("excess-mtl") for _ in range(2))
    for step in range(4):
        jacobian = uneven(step).float()
        expected = large(jacobian)
        torch.testing.assert_close(small(1e-30 * jacobian), expected, rtol=1e-4, atol=0)


def test_a_gradient_that_was_zero_at_first_is_measured_from_its_first_risk() -> None:
    method = jd.weighting("excess-mtl", robust_step_size=1.0)
    first = rows(0)
    first[1] = 0.0
    method(first)
    weights = method(rows(1))
    assert weights.isfinite().all()
    # Its ratio is one, as at a first call; the others' has fallen.
    expected = published([first, rows(1)], 1.0)
    assert not expected[1].isfinite().all()
    logs = weights.log()
    kept = published([first[[0, 2]], rows(1)[[0, 2]]], 1.0)[1].log()
    assert float(logs[0] - logs[2]) == pytest.approx(float(kept[0] - kept[1]), rel=1e-9)
    assert weights[1] == weights.max()


def test_e12_the_state_loads_strictly_into_a_fresh_instance_from_a_file() -> None:
    method = jd.weighting("excess-mtl")
    for step in range(3):
        method(uneven(step))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    fresh = jd.weighting("excess-mtl")
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(fresh(uneven(3)), method(uneven(3)))


def test_e12_torchjd_refuses_its_own_state() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    used = aggregation.ExcessMTLWeighting()
    used(torch.eye(3))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        aggregation.ExcessMTLWeighting().load_state_dict(used.state_dict())


def test_a_jacobian_with_nan_leaves_no_trace() -> None:
    method = jd.weighting("excess-mtl")
    method(rows(0))
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    assert method(rows(1) * torch.nan).isnan().all()
    assert all(torch.equal(before[name], now) for name, now in method.state_dict().items())


@pytest.mark.parametrize("shape", [(2, 20), (3, 21)])
def test_a_jacobian_of_another_shape_is_refused_until_reset(shape: tuple[int, int]) -> None:
    method = jd.weighting("excess-mtl")
    method(rows(0))
    with pytest.raises(jd.ConfigError, match=r"roots of shape \[3, 20\].*call reset\(\)"):
        method(rows(0, *shape))
    method.reset()
    assert method(rows(0, *shape)).tolist() == pytest.approx([1 / shape[0]] * shape[0])


@pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
def test_many_steps_on_every_family_stay_finite(family: Any) -> None:
    for m in (1, 3, 6):
        method = jd.weighting("excess-mtl", robust_step_size=10.0)
        for step in range(20):
            weights = method(family(m, step))
        assert weights.isfinite().all()
        assert weights.sum().item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    "setting", [{"robust_step_size": 0.0}, {"n_warmup_steps": -1}, {"min_weight": 0.0}]
)
def test_impossible_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(jd.ConfigError, match=f"excess-mtl: {next(iter(setting))} = "):
        jd.weighting("excess-mtl", **setting)
