"""UPGrad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.linalg import gramian, project_on_dual_cone
from jdframework.linalg.dual_cone import cone_residual
from jdframework.testing import FAMILIES, WeightingSuite


def conflict(matrix: Tensor, weights: Tensor) -> float:
    """The largest negative inner product of a gradient with the update, relative to its terms."""
    norms = matrix.diagonal().sqrt()
    terms = norms * (weights.abs() @ norms)
    products = matrix @ weights
    return float(torch.where(terms > 0, -products / terms, 0.0).max().clamp(min=0.0))


class TestUPGrad(WeightingSuite):
    spec = "upgrad"
    optimality_tolerance: ClassVar[float] = 1e-12

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """No objective has a negative inner product with the update."""
        return conflict(gramian, weights)


class TestUPGradLikeTorchJD(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "upgrad", "reg_eps": 1e-4}


class TestUPGradByQuadprog(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "upgrad", "solver": "quadprog"}
    tolerance: ClassVar[float] = 1e-4

    @pytest.fixture(autouse=True)
    def _needs_quadprog(self) -> None:
        pytest.importorskip("qpsolvers")
        pytest.importorskip("quadprog")


def uneven(seed: int, m: int, n: int = 12, dtype: torch.dtype = torch.float64) -> Tensor:
    """A Jacobian whose rows' norms differ by up to 1e6."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(m, n, generator=generator, dtype=torch.float64)
    norms = 10.0 ** (6 * torch.rand(m, 1, generator=generator, dtype=torch.float64))
    return (rows * norms).to(dtype)


def even(seed: int, m: int, n: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, n, generator=generator, dtype=torch.float64)


def test_no_objective_conflicts_with_the_update_whatever_its_norm() -> None:
    upgrad = jd.weighting("upgrad")
    for seed in range(1000):
        jacobian = uneven(seed, m=2 + seed % 9)
        update = upgrad(jacobian @ jacobian.T) @ jacobian
        cosines = (jacobian @ update) / (jacobian.norm(dim=1) * update.norm())
        assert cosines.min() >= -1e-6, f"seed {seed}: {cosines.tolist()}"


def test_in_single_precision_no_conflict_exceeds_the_rounding_of_the_terms() -> None:
    # The Gramian and the weights are rounded to 6e-8 each: relative to the update itself, which may
    # be much shorter than the weighted gradients that it consists of, no more can be promised.
    upgrad = jd.weighting("upgrad")
    for seed in range(1000):
        jacobian = uneven(seed, m=2 + seed % 9, dtype=torch.float32)
        weights = upgrad(gramian([jacobian]))
        assert weights.dtype == torch.float32
        exact = jacobian.double()
        assert conflict(exact @ exact.T, weights.double()) <= 1e-6, f"seed {seed}"


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1e-3, 1e3, 1e6, 1e12])
def test_small_gradients_do_not_change_upgrad(factor: float) -> None:
    upgrad = jd.weighting("upgrad")
    for seed in range(20):
        jacobian = even(seed, m=5)
        expected = upgrad(jacobian @ jacobian.T)
        scaled = factor * jacobian
        torch.testing.assert_close(upgrad(scaled @ scaled.T), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("m", [2, 3, 5, 8, 20, 40])
def test_at_its_settings_the_weights_are_torchjds(m: int) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    ours = jd.weighting("upgrad", reg_eps=1e-4, norm_eps=1e-4)
    theirs = aggregation.UPGradWeighting()
    for seed in range(10):
        jacobian = even(seed, m)
        matrix = jacobian @ jacobian.T
        torch.testing.assert_close(ours(matrix), theirs(matrix), rtol=1e-6, atol=1e-6)


def test_with_preferences_too_the_weights_are_torchjds() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    preferences = torch.tensor([0.1, 2.0, 0.7, 0.0], dtype=torch.float64)
    ours = jd.weighting("upgrad", pref_vector=preferences, reg_eps=1e-4, norm_eps=1e-4)
    jacobian = even(0, m=4)
    matrix = jacobian @ jacobian.T
    expected = aggregation.UPGradWeighting(preferences)(matrix)
    torch.testing.assert_close(ours(matrix), expected, rtol=1e-6, atol=1e-6)


def test_below_norm_eps_the_weights_are_the_mean_as_torchjds() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    matrix = 1e-6 * torch.tensor([[1.0, -1.0], [-1.0, 4.0]])
    ours = jd.weighting("upgrad", reg_eps=1e-4, norm_eps=1e-4)
    assert ours(matrix).tolist() == aggregation.UPGradWeighting()(matrix).tolist() == [0.5, 0.5]
    assert jd.weighting("upgrad", norm_eps=1e-4)(matrix).tolist() == [0.5, 0.5]


def test_torchjd_loses_small_gradients_and_we_do_not() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    large = even(1, m=3)
    small = 0.03 * (even(2, m=1) - 0.5 * large.sum(0))
    jacobian = torch.cat([large, small])
    matrix = jacobian @ jacobian.T
    theirs = matrix @ aggregation.UPGradWeighting()(matrix)
    ours = matrix @ jd.weighting("upgrad")(matrix)
    assert theirs.min() < -1e-3 * matrix.diagonal().min(), "torchjd has mended this"
    assert ours.min() >= -1e-12 * matrix.diagonal().min()


def test_torchjd_takes_the_mean_of_small_gradients_and_we_do_not() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    matrix = torch.tensor([[1.0, -1.0], [-1.0, 4.0]], dtype=torch.float64)
    tiny = 1e-6 * matrix
    theirs = aggregation.UPGradWeighting()
    assert theirs(tiny).tolist() == [0.5, 0.5], "torchjd has mended this"
    assert theirs(matrix).tolist() != [0.5, 0.5]
    ours = jd.weighting("upgrad")
    torch.testing.assert_close(ours(tiny), ours(matrix))


@pytest.mark.parametrize("m", [1, 2, 6, 24, 48])
def test_the_weights_are_the_sum_of_exact_projections(m: int) -> None:
    for jacobian in (even(3, m), even(4, m, n=max(1, m // 2)), uneven(5, m)):
        matrix = jacobian @ jacobian.T
        scaled = torch.eye(m, dtype=torch.float64) / m
        projected = project_on_dual_cone(matrix, scaled)
        assert cone_residual(matrix.numpy(), scaled.numpy(), projected.numpy()) <= 1e-11
        torch.testing.assert_close(jd.weighting("upgrad")(matrix), projected.sum(0))


def test_two_objectives_have_their_closed_form() -> None:
    preferences = (0.3, 1.7)
    upgrad = jd.weighting("upgrad", pref_vector=preferences)
    for seed in range(50):
        jacobian = uneven(seed, m=2, n=2)
        matrix = jacobian @ jacobian.T
        against = (-matrix[0, 1]).clamp(min=0.0)
        first = preferences[0] + preferences[1] * against / matrix[0, 0]
        second = preferences[1] + preferences[0] * against / matrix[1, 1]
        torch.testing.assert_close(upgrad(matrix), torch.stack([first, second]), rtol=1e-9, atol=0)


def test_without_conflict_the_weights_are_the_preferences() -> None:
    jacobian = even(0, m=4).abs()
    matrix = jacobian @ jacobian.T
    assert jd.weighting("upgrad")(matrix).tolist() == [0.25] * 4
    preferences = [0.5, 1.0, 0.0, 2.0]
    assert jd.weighting("upgrad", pref_vector=preferences)(matrix).tolist() == preferences


def test_preferences_may_be_a_list_or_a_tensor() -> None:
    jacobian = even(1, m=3)
    matrix = jacobian @ jacobian.T
    expected = jd.weighting("upgrad", pref_vector=[1.0, 0.5, 2.0])(matrix)
    for given in ((1, 0.5, 2), torch.tensor([1.0, 0.5, 2.0]), torch.tensor([1.0, 0.5, 2.0]).half()):
        assert torch.equal(jd.weighting("upgrad", pref_vector=given)(matrix), expected)


def test_preferences_of_another_length_are_refused() -> None:
    upgrad = jd.weighting("upgrad", pref_vector=[1.0, 2.0])
    with pytest.raises(
        jd.ConfigError, match="pref_vector has 2 values, but there are 3 objectives"
    ):
        upgrad(torch.eye(3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reg_eps": -1e-4}, "upgrad: reg_eps = -0.0001 was given"),
        ({"norm_eps": -1.0}, "upgrad: norm_eps = -1.0 was given"),
        ({"pref_vector": "three"}, "upgrad: pref_vector = 'three' was given"),
        ({"regeps": 1e-4}, "did you mean 'reg_eps'?"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(jd.ConfigError) as caught:
        jd.weighting("upgrad", **settings)
    assert message in str(caught.value)


@pytest.mark.parametrize("m", [2, 5, 12])
def test_another_solver_gives_the_same_weights(m: int) -> None:
    pytest.importorskip("qpsolvers")
    pytest.importorskip("quadprog")
    jacobian = even(7, m)
    matrix = jacobian @ jacobian.T
    found = jd.weighting("upgrad", solver="quadprog")(matrix)
    torch.testing.assert_close(found, jd.weighting("upgrad")(matrix), rtol=1e-6, atol=1e-8)


def test_a_solver_that_is_not_installed_is_refused_and_those_that_are_are_named() -> None:
    qpsolvers = pytest.importorskip("qpsolvers")
    with pytest.raises(jd.ConfigError) as caught:
        jd.weighting("upgrad", solver="best")
    assert "the solver 'best' is not installed" in str(caught.value)
    for name in qpsolvers.available_solvers:
        assert name in str(caught.value)


def test_zero_gradients_get_the_mean() -> None:
    assert jd.weighting("upgrad")(torch.zeros(4, 4)).tolist() == [0.25] * 4


def test_one_objective_keeps_its_gradient() -> None:
    assert jd.weighting("upgrad")(torch.tensor([[7.0]])).tolist() == [1.0]


def test_opposite_gradients_cancel() -> None:
    jacobian = torch.tensor([[3.0, 1.0], [-6.0, -2.0]])
    assert jd.aggregator("upgrad")(jacobian).abs().max() <= 1e-6


@pytest.mark.parametrize("m", [3, 7])
def test_where_every_direction_hurts_somebody_the_update_vanishes(m: int) -> None:
    jacobian = FAMILIES["stationary"](m)
    jacobian[:, m - 1 :] = 0.0
    jacobian -= jacobian.mean(0)
    update = jd.weighting("upgrad")(jacobian @ jacobian.T) @ jacobian
    assert update.norm() <= 1e-7 * jacobian.norm()
