"""PCD: the nearest direction to the primary gradient that serves the others, exactly."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.linalg import min_norm_weights, normalised
from jdframework.testing import FAMILIES, WeightingSuite

TAUS = [0.3, 0.0]


def residual(gramian: Tensor, weights: Tensor, tau: Tensor) -> float:
    """The largest violation of a KKT condition by a first call, in units of the unit gradients."""
    cosines, norms = normalised(gramian)
    if not norms[0]:
        return float(weights.abs().max())
    there = norms[1:] > 0
    unit, shares = cosines[1:, 1:][there][:, there], tau[there]
    if not weights.any():  # right only where the projection on the cone itself is zero
        return float(shares.sum())
    parts = weights * norms / (weights[0] * norms[0])
    square = parts @ cosines @ parts
    length = float((weights @ gramian @ weights).sqrt() / norms[0])
    wrong_length = abs(length - 1) * float(square)  # what is cancelled out is not known better
    slack = (cosines @ parts)[1:][there] - shares
    multipliers = parts[1:][there]
    if not multipliers.any() and (slack < -1e-8).any():
        # Dropped constraints: right only if no direction has a positive product with all rows.
        hull = min_norm_weights(unit)
        return float(hull @ unit @ hull)
    unmet = torch.cat([-slack, -multipliers, torch.minimum(slack, multipliers).abs()])
    worst = float(unmet.max()) if unmet.numel() else 0.0
    return max(wrong_length, worst / (1 + float(multipliers.sum())))


class TestPCD(WeightingSuite):
    spec = "pcd"

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The KKT residual."""
        return residual(gramian, weights, gramian.new_full((len(gramian) - 1,), 0.02))


class TestPCDWithLargeShares(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "pcd", "tau": 1.0}

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The KKT residual."""
        return residual(gramian, weights, gramian.new_ones(len(gramian) - 1))


class TestPCDWithAShareForEach(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "pcd", "tau": TAUS}
    objectives = (3,)

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The KKT residual."""
        return residual(gramian, weights, gramian.new_tensor(TAUS))


class TestPCDWithoutAMargin(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "pcd", "tau": 0.0}

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The KKT residual."""
        return residual(gramian, weights, gramian.new_zeros(len(gramian) - 1))


class TestPCDByQuadprog(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "pcd", "solver": "quadprog"}
    tolerance: ClassVar[float] = 1e-4

    @pytest.fixture(autouse=True)
    def _needs_quadprog(self) -> None:
        pytest.importorskip("qpsolvers")
        pytest.importorskip("quadprog")


def normal(seed: int, m: int, n: int = 20) -> Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uneven(seed: int, m: int) -> Tensor:
    """Rows whose norms differ by up to 1e6."""
    exponents = 6 * torch.rand(m, 1, generator=torch.Generator().manual_seed(seed)).double()
    return normal(seed, m) * 10.0**exponents


def weights_of(jacobian: Tensor, **config: Any) -> Tensor:
    weights: Tensor = jd.weighting("pcd", **config)(jacobian @ jacobian.T)
    return weights


@pytest.mark.parametrize("tau", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
def test_the_conditions_hold_on_every_family(family: Any, tau: float) -> None:
    for m in (1, 2, 3, 5, 8, 20):
        for seed in range(3):
            jacobian = family(m, seed)
            gramian = jacobian @ jacobian.T
            weights = jd.weighting("pcd", tau=tau)(gramian)
            found = residual(gramian, weights, gramian.new_full((m - 1,), tau))
            assert found <= 1e-8, f"{m} objectives, seed {seed}"


@pytest.mark.parametrize("tau", [0.0, 0.02, 0.5])
def test_each_secondary_objective_gets_its_share_whatever_its_norm(tau: float) -> None:
    active = 0
    for seed in range(200):
        jacobian = uneven(seed, m=2 + seed % 4)
        norms = jacobian.norm(dim=1)
        weights = weights_of(jacobian, tau=tau)
        # The direction before it is brought to the primary's length has that gradient's weight 1.
        direction = (weights @ jacobian) / (weights[0] * norms[0])
        progress = (jacobian[1:] @ direction) / norms[1:]
        assert progress.min() >= tau - 1e-9, f"seed {seed}: {progress.tolist()}"
        active += bool(weights[1:].any())
    assert active > 20


def test_the_update_is_as_long_as_the_primary_gradient() -> None:
    for seed in range(50):
        jacobian = uneven(seed, m=4)
        update = weights_of(jacobian) @ jacobian
        assert update.norm().item() == pytest.approx(jacobian[0].norm().item(), rel=1e-9)


def test_no_direction_that_serves_all_is_closer_to_the_primary_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    for seed in range(20):
        jacobian = torch.nn.functional.normalize(normal(seed, m=3, n=6))
        weights = weights_of(jacobian, tau=0.2)
        found = (weights / weights[0]) @ jacobian
        steps = torch.randn(2000, 6, generator=generator, dtype=torch.float64)
        others = found + 10.0 ** -(seed % 5) * steps
        serving = others[(others @ jacobian[1:].T >= 0.2).all(dim=1)]
        nearest = (found - jacobian[0]).norm()
        assert ((serving - jacobian[0]).norm(dim=1) >= nearest * (1 - 1e-9)).all()


def test_the_first_objective_is_the_primary_one() -> None:
    jacobian = torch.tensor([[1.0, 0.0], [-4.0, 3.0]], dtype=torch.float64)
    follows = weights_of(jacobian, tau=0.0) @ jacobian
    torch.testing.assert_close(follows, torch.tensor([0.6, 0.8], dtype=torch.float64))
    other = weights_of(jacobian.flip(0), tau=0.0) @ jacobian.flip(0)
    torch.testing.assert_close(other, torch.tensor([0.0, 5.0], dtype=torch.float64))


def test_served_constraints_leave_the_primary_gradient_as_it_is() -> None:
    jacobian = normal(0, m=4).abs()
    assert weights_of(jacobian, tau=0.1).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_two_objectives_in_conflict_have_their_closed_form() -> None:
    for seed in range(50):
        jacobian = uneven(seed, m=2)
        unit = torch.nn.functional.normalize(jacobian)
        added = (0.1 - unit[0] @ unit[1]).clamp(min=0.0)
        wanted = torch.nn.functional.normalize(unit[0] + added * unit[1], dim=0)
        found = weights_of(jacobian, tau=0.1) @ jacobian / jacobian[0].norm()
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_constraints_that_exclude_each_other_are_dropped() -> None:
    row = normal(1, m=1)
    jacobian = torch.cat([normal(2, m=1), row, -3 * row])
    assert weights_of(jacobian).tolist() == [1.0, 0.0, 0.0]
    assert weights_of(jacobian.float()).tolist() == [1.0, 0.0, 0.0]


def test_opposite_secondary_gradients_without_a_margin_leave_what_is_across_them() -> None:
    jacobian = torch.tensor([[3.0, 4.0], [1.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    update = weights_of(jacobian, tau=0.0) @ jacobian
    torch.testing.assert_close(update, torch.tensor([0.0, 5.0], dtype=torch.float64))


def test_without_a_harmless_direction_the_weights_are_zero() -> None:
    row = normal(3, m=1)
    assert weights_of(torch.cat([row, -2 * row]), tau=0.0).tolist() == [0.0, 0.0]


def test_a_primary_gradient_of_zero_stops_the_step() -> None:
    jacobian = normal(4, m=3)
    jacobian[0] = 0.0
    assert weights_of(jacobian).tolist() == [0.0, 0.0, 0.0]


def test_a_secondary_gradient_of_zero_constrains_nothing() -> None:
    jacobian = normal(5, m=4)
    expected = weights_of(jacobian[[0, 1, 3]], tau=0.5)
    jacobian[2] = 0.0
    found = weights_of(jacobian, tau=0.5)
    assert found[2] == 0.0
    torch.testing.assert_close(found[[0, 1, 3]], expected)


def running(gramians: list[Tensor], beta: float) -> Tensor:
    """The bias-corrected running means of the squared norms, as the paper has them."""
    mean = torch.zeros(len(gramians[0]), dtype=torch.float64)
    for gramian in gramians:
        mean = beta * mean + (1 - beta) * gramian.diagonal()
    return mean / (1 - beta ** len(gramians))


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_the_gradients_are_measured_by_the_running_means_of_their_norms(beta: float) -> None:
    method = jd.weighting("pcd", beta=beta, tau=0.4)
    seen = []
    for step in range(20):
        jacobian = uneven(step, m=3)
        seen.append(jacobian @ jacobian.T)
        weights = method(seen[-1])
        scales = 1 / running(seen, beta).sqrt()
        scaled = scales[:, None] * jacobian
        if weights[1:].any():
            direction = (weights / (weights[0] * scales[0] ** -1)) @ jacobian
            progress = scaled[1:] @ direction - 0.4 * scaled[1:].square().sum(1)
            terms = scaled[1:].norm(dim=1) * direction.norm()
            assert (progress >= -1e-9 * terms).all()
            touched = weights[1:] > 0
            assert (progress[touched].abs() <= 1e-9 * terms[touched]).all()


@pytest.mark.parametrize("m", [1, 2, 3, 6, 12])
@pytest.mark.parametrize("tau", [0.0, 0.02, 0.5])
def test_with_its_epsilon_every_step_is_torchjds(m: int, tau: float) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    ours, theirs = jd.weighting("pcd", tau=tau, eps=1e-8), aggregation.PCDWeighting(tau=tau)
    for step in range(20):
        jacobian = normal(step, m)
        gramian = jacobian @ jacobian.T
        torch.testing.assert_close(ours(gramian), theirs(gramian), rtol=1e-7, atol=1e-7)


def test_with_a_share_for_each_too_the_weights_are_torchjds() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    ours = jd.weighting("pcd", tau=TAUS, eps=1e-8)
    theirs = aggregation.PCDWeighting(tau=torch.tensor(TAUS))
    for seed in range(20):
        jacobian = normal(seed, m=3, n=5)
        gramian = jacobian @ jacobian.T
        torch.testing.assert_close(ours(gramian), theirs(gramian), rtol=1e-6, atol=1e-6)


def test_torchjds_epsilon_changes_small_gradients_and_ours_does_not() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = torch.tensor([[1.0, 0.0], [-0.9, 0.3]], dtype=torch.float64)
    gramian = jacobian @ jacobian.T
    uneven_rows = torch.tensor([1.0, 100.0], dtype=torch.float64)
    expected = jd.weighting("pcd")(gramian) / uneven_rows
    tiny = 1e-14 * gramian * uneven_rows * uneven_rows[:, None]
    torch.testing.assert_close(jd.weighting("pcd")(tiny), expected, rtol=1e-9, atol=0)
    theirs = aggregation.PCDWeighting()(tiny)
    assert not torch.allclose(theirs, expected, rtol=1e-3), "torchjd has mended this"


def test_e12_the_state_loads_strictly_into_a_fresh_instance() -> None:
    method, fresh = (jd.weighting("pcd", tau=0.5) for _ in range(2))
    for step in range(3):
        weights_of_step(method, step)
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(weights_of_step(fresh, 3), weights_of_step(method, 3))


def weights_of_step(method: Any, step: int) -> Tensor:
    jacobian = uneven(step, m=3)
    weights: Tensor = method(jacobian @ jacobian.T)
    return weights


def test_e12_torchjd_refuses_its_own_state() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    used = aggregation.PCDWeighting()
    used(torch.eye(3))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        aggregation.PCDWeighting().load_state_dict(used.state_dict())


def test_a_gramian_with_nan_leaves_no_trace_in_the_running_means() -> None:
    method = jd.weighting("pcd")
    weights_of_step(method, 0)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    assert method(torch.full((3, 3), torch.nan)).isnan().all()
    assert all(torch.equal(before[name], now) for name, now in method.state_dict().items())


def test_another_number_of_objectives_is_refused_until_reset() -> None:
    method = jd.weighting("pcd")
    method(torch.eye(3))
    with pytest.raises(jd.ConfigError, match=r"shape \[3\], but now there are \[2\]: call reset"):
        method(torch.eye(2))
    method.reset()
    assert method(torch.eye(2)).shape == (2,)


def test_shares_of_another_number_are_refused_with_both() -> None:
    with pytest.raises(
        jd.ConfigError, match="tau has 2 values, but there are 3 objectives besides"
    ):
        jd.weighting("pcd", tau=TAUS)(torch.eye(4))


def test_shares_may_be_a_number_a_list_or_a_tensor() -> None:
    jacobian = normal(0, m=3, n=2)
    expected = weights_of(jacobian, tau=[0.5, 0.5])
    for tau in (0.5, (0.5, 0.5), torch.tensor([0.5, 0.5])):
        assert torch.equal(weights_of(jacobian, tau=tau), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": 1.5}, "pcd: tau = 1.5 was given, but every share must be from 0 to 1"),
        ({"tau": [0.1, -0.1]}, "every share must be from 0 to 1"),
        ({"tau": "much"}, "it must be a number, or one for each secondary objective"),
        ({"beta": 1.0}, "pcd: beta = 1.0 was given"),
        ({"eps": -1.0}, "pcd: eps = -1.0 was given"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(jd.ConfigError) as caught:
        jd.weighting("pcd", **settings)
    assert message in str(caught.value)


@pytest.mark.parametrize("m", [2, 4, 8])
def test_another_solver_gives_the_same(m: int) -> None:
    pytest.importorskip("qpsolvers")
    pytest.importorskip("quadprog")
    for seed in range(10):
        jacobian = normal(seed, m, n=2 * m)
        found = weights_of(jacobian, tau=0.4, solver="quadprog")
        torch.testing.assert_close(found, weights_of(jacobian, tau=0.4), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", ["exact", "quadprog"])
def test_dependent_gradients_get_in_single_precision_what_they_get_in_double(solver: str) -> None:
    if solver != "exact":
        pytest.importorskip(solver)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        jacobian = torch.randn(8, 4, generator=generator) + torch.tensor([1.0, 0.0, 0.0, 0.0])
        found = jd.aggregator("pcd", solver=solver)(jacobian).double()
        expected = jd.aggregator("pcd")(jacobian.double())
        assert (found - expected).norm() <= 1e-3 * expected.norm()
