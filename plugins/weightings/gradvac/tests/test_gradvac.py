"""GradVac: the published algorithm, with targets that survive a checkpoint."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Generator, Tensor

import jdframework as jd
from jdframework.linalg import normalised
from jdframework.testing import FAMILIES, WeightingSuite


def drawn_orders(generator: Generator, m: int) -> list[list[int]]:
    """The orders of one call, as the method draws them."""
    keys = torch.rand(m, m, generator=generator, dtype=torch.float64)
    return [[j for j in keys[i].argsort().tolist() if j != i] for i in range(m)]


def published(
    jacobian: Tensor, orders: Sequence[Sequence[int]], targets: Tensor, beta: float = 0.5
) -> Tensor:
    """Algorithm 1, on the gradients themselves, one by one; changes ``targets``."""
    total = torch.zeros_like(jacobian[0])
    for i, order in enumerate(orders):
        gradient = jacobian[i].clone()
        for j in order:
            length, other = float(gradient.norm()), float(jacobian[j].norm())
            if not other or not float(jacobian[i].norm()):
                continue
            # Below 1e-8 of its length the gradient is rounding errors, which have no cosine.
            faded = length <= 1e-8 * float(jacobian[i].norm())
            phi = 0.0 if faded else float(gradient @ jacobian[j]) / (length * other)
            phi, target = min(max(phi, -1.0), 1.0), float(targets[i, j])
            if phi < target:
                share = target * math.sqrt(1 - phi**2) - phi * math.sqrt(1 - target**2)
                gradient += length * share / (other * math.sqrt(1 - target**2)) * jacobian[j]
            targets[i, j] = (1 - beta) * target + beta * phi
        total += gradient
    return total


class TestGradVac(WeightingSuite):
    spec = "gradvac"
    permutation_equivariant = False
    optimality_tolerance = 1e-7  # eps changes what it is added to by 1e-8

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The same as the published algorithm on vectors that have this Gramian."""
        cosines, norms = normalised(gramian)
        values, vectors = torch.linalg.eigh(cosines)
        jacobian = norms[:, None] * vectors * values.clamp(min=0).sqrt()
        m = len(gramian)
        orders = drawn_orders(Generator().manual_seed(0), m)
        expected = published(jacobian, orders, torch.zeros(m, m, dtype=torch.float64))
        scale = float(norms.sum()) or 1.0
        return float((weights @ jacobian - expected).norm()) / scale


def gramian_of(seed: int, m: int = 4) -> Tensor:
    jacobian = FAMILIES["random"](m, seed)
    return jacobian @ jacobian.T


@pytest.mark.parametrize("beta", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("m", [1, 2, 5, 9])
def test_many_steps_are_those_of_the_published_algorithm(beta: float, m: int) -> None:
    method = jd.weighting("gradvac", seed=5, beta=beta, eps=1e-300)
    generator = Generator().manual_seed(5)
    targets = torch.zeros(m, m, dtype=torch.float64)
    for step in range(20):
        jacobian = FAMILIES["random"](m, step)
        expected = published(jacobian, drawn_orders(generator, m), targets, beta)
        found = method(jacobian @ jacobian.T) @ jacobian
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(method.targets, targets, rtol=1e-8, atol=1e-10)


def test_a_pair_is_turned_until_its_cosine_is_the_target() -> None:
    method = jd.weighting("gradvac", beta=0.0, eps=1e-300)
    method.load_state_dict({**method.state_dict(), "targets": torch.tensor([[0, 0.6], [-1, 0]])})
    jacobian = FAMILIES["random"](2)
    jacobian[1] = -jacobian[1] * (jacobian[0] @ jacobian[1]).sign()
    turned = method(jacobian @ jacobian.T) @ jacobian - jacobian[1]
    cosine = torch.nn.functional.cosine_similarity(turned, jacobian[1], dim=0)
    assert float(cosine) == pytest.approx(0.6, rel=1e-6)


def test_the_targets_load_strictly_into_a_fresh_instance_from_a_file() -> None:
    method = jd.weighting("gradvac", seed=0)
    for step in range(3):
        method(gramian_of(step))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    fresh = jd.weighting("gradvac", seed=1)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert fresh.targets.shape == (4, 4)
    assert torch.equal(fresh(gramian_of(3)), method(gramian_of(3)))


def test_the_targets_load_as_a_part_of_a_larger_module() -> None:
    saved, fresh = (torch.nn.ModuleList([jd.weighting("gradvac", seed=0)]) for _ in range(2))
    saved[0](gramian_of(0))
    fresh.load_state_dict(saved.state_dict(), strict=True)
    assert torch.equal(fresh[0](gramian_of(1)), saved[0](gramian_of(1)))


def test_an_unused_state_makes_a_used_instance_new() -> None:
    unused, used = (jd.weighting("gradvac", seed=0) for _ in range(2))
    used(gramian_of(0))
    used.load_state_dict(unused.state_dict(), strict=True)
    assert torch.equal(used(gramian_of(1, m=3)), unused(gramian_of(1, m=3)))


def test_another_number_of_objectives_is_refused_until_reset() -> None:
    method = jd.weighting("gradvac", seed=0)
    method(gramian_of(0, m=4))
    with pytest.raises(jd.ConfigError, match=r"4 objectives, but there are 3: call reset\(\)"):
        method(gramian_of(0, m=3))
    method.reset()
    expected = jd.weighting("gradvac", seed=0)(gramian_of(0, m=3))
    assert torch.equal(method(gramian_of(0, m=3)), expected)


def test_a_gramian_with_nan_leaves_no_trace_in_the_targets() -> None:
    method = jd.weighting("gradvac", seed=0)
    method(gramian_of(0))
    before = method.targets.clone()
    assert method(gramian_of(1) * torch.nan).isnan().all()
    assert torch.equal(method.targets, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opposite_and_parallel_gradients_never_give_nan(dtype: torch.dtype) -> None:
    for seed in range(200):
        row = FAMILIES["random"](1, seed)[0].to(dtype)
        jacobian = torch.stack([row, -3 * row, 0.1 * row])
        method = jd.weighting("gradvac", seed=seed)
        for _ in range(3):
            assert method(jacobian @ jacobian.T).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_left_of_a_gradient_that_its_opposite_takes_away_is_not_remembered(
    dtype: torch.dtype,
) -> None:
    for seed in range(5):
        jacobian = FAMILIES["random"](20, seed)
        jacobian[-1] = -0.3 * jacobian[0]
        turned = torch.linalg.qr(FAMILIES["random"](jacobian.shape[1], 100 + seed))[0]
        found = []
        for rows in (jacobian, jacobian @ turned):  # the same but for rounding
            method = jd.weighting("gradvac", seed=seed)
            method(rows.to(dtype) @ rows.to(dtype).T)
            found.append(method.targets)
        torch.testing.assert_close(*found, rtol=0, atol=1e-8 if dtype.itemsize == 8 else 1e-3)


def test_a_zero_gradient_leaves_its_pairs_as_they_are() -> None:
    method = jd.weighting("gradvac", seed=0)
    for step in range(3):
        method(gramian_of(step, m=3))
    before = method.targets.clone()
    gramian = gramian_of(3, m=3)
    gramian[2], gramian[:, 2] = 0.0, 0.0
    assert method(gramian)[2] == 1.0
    assert torch.equal(method.targets[2], before[2])
    assert torch.equal(method.targets[:, 2], before[:, 2])
    assert not torch.equal(method.targets[:2, :2], before[:2, :2])


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1e6, 1e12])
def test_small_gradients_have_the_targets_of_large_ones(factor: float) -> None:
    method, scaled = (jd.weighting("gradvac", seed=0) for _ in range(2))
    for step in range(5):
        expected = method(gramian_of(step))
        torch.testing.assert_close(scaled(gramian_of(step) * factor**2), expected)
    torch.testing.assert_close(scaled.targets, method.targets)


@pytest.mark.parametrize("setting", [{"beta": -0.1}, {"beta": 1.1}, {"eps": 0.0}])
def test_impossible_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(jd.ConfigError, match=f"gradvac: {next(iter(setting))} = "):
        jd.weighting("gradvac", **setting)


@pytest.mark.parametrize("m", [2, 3, 8])
def test_torchjd_gives_the_same_in_the_same_orders(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    ours, theirs = jd.weighting("gradvac", seed=2), aggregation.GradVacWeighting()
    generator = Generator().manual_seed(2)
    for step in range(10):
        drawn = drawn_orders(generator, m)
        # Theirs counts the others without a gap at i.
        orders = iter([[j - (j > i) for j in order] for i, order in enumerate(drawn)])
        monkeypatch.setattr(torch, "randperm", lambda _, left=orders: torch.tensor(next(left)))
        found, expected = ours(gramian_of(step, m)), theirs(gramian_of(step, m))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_torchjds_saved_targets_do_not_load_and_ours_do() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    theirs = aggregation.GradVacWeighting()
    theirs(gramian_of(0))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        aggregation.GradVacWeighting().load_state_dict(theirs.state_dict())
    ours = jd.weighting("gradvac", seed=0)
    ours(gramian_of(0))
    jd.weighting("gradvac", seed=0).load_state_dict(ours.state_dict())
