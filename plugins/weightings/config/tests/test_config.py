"""The direction with the same cosine to every gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework import linalg
from jdframework.testing import AggregatorSuite, WeightingSuite

PREFERENCES = [0.5, 1.0, 3.0]


def rows(m: int, n: int, seed: int, decades: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    jacobian = torch.randn(m, n, generator=generator, dtype=torch.float64)
    return jacobian * torch.logspace(0, -decades, m, dtype=torch.float64)[:, None]


def residual(gramian: Tensor, weights: Tensor, preferences: Tensor) -> float:
    """How far the inner products are from the least-squares cosines, and the length from its own.

    The inner products with the unit gradients are ``λ C C⁺ b``, and ``‖d‖² = Σ g_i · d``.
    """
    unit, norms = linalg.normalised(gramian)
    scaled = weights * norms
    found = unit @ scaled
    wanted = unit @ torch.linalg.pinv(unit, hermitian=True, rtol=1e-13) @ preferences
    if wanted.norm() <= 1e-12 * preferences.norm():
        return float(scaled.norm() / norms.max().clamp(min=1e-300))
    if abs(float(norms @ found)) <= 1e-12 * float(norms @ found.abs()):
        return float(scaled.norm() / norms.max())
    along = (found @ wanted) / (wanted @ wanted) * wanted
    size = float(found.norm().clamp(min=1e-300))
    length = abs(float(scaled @ found - norms @ found)) / float(norms.abs() @ found.abs())
    return max(float((found - along).norm()) / size, length)


class TestConFIG(WeightingSuite):
    spec = "config"

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        return residual(gramian, weights, (gramian.diagonal() > 0).to(gramian))


class TestConFIGAggregator(AggregatorSuite):
    spec = "config"


class TestConFIGWithPreferences(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "config", "pref_vector": PREFERENCES}
    objectives = (3,)
    permutation_equivariant = False

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        present = gramian.diagonal() > 0
        return residual(gramian, weights, gramian.new_tensor(PREFERENCES) * present)


@pytest.mark.parametrize("decades", [0, 2, 6])
def test_independent_gradients_all_get_the_same_positive_cosine(decades: int) -> None:
    for seed in range(50):
        jacobian = rows(2 + seed % 6, 20, seed, decades)
        direction = jd.aggregator("config")(jacobian)
        cosines = jacobian @ direction / (jacobian.norm(dim=1) * direction.norm())
        assert cosines.min() > 0
        torch.testing.assert_close(cosines, cosines[:1].expand_as(cosines), rtol=1e-9, atol=0.0)


def test_the_cosines_are_in_proportion_to_the_preferences() -> None:
    jacobian = rows(3, 10, seed=1)
    direction = jd.aggregator("config", pref_vector=PREFERENCES)(jacobian)
    cosines = jacobian @ direction / jacobian.norm(dim=1)
    expected = cosines[1] * jacobian.new_tensor(PREFERENCES)
    torch.testing.assert_close(cosines, expected)


def test_only_the_ratios_of_the_preferences_matter() -> None:
    gramian = rows(3, 10, seed=1) @ rows(3, 10, seed=1).T
    found = jd.weighting("config", pref_vector=[1e6 * p for p in PREFERENCES])(gramian)
    torch.testing.assert_close(found, jd.weighting("config", pref_vector=PREFERENCES)(gramian))


def test_the_update_is_as_long_as_the_gradients_along_it() -> None:
    jacobian = rows(4, 10, seed=2)
    direction = jd.aggregator("config")(jacobian)
    expected = (jacobian @ direction / direction.norm()).sum()
    torch.testing.assert_close(direction.norm(), expected)


def test_it_is_imtl_g_with_another_length() -> None:
    pytest.importorskip("jd_plugin_imtl_g")
    for seed in range(50):
        jacobian = rows(2 + seed % 6, 20, seed, decades=seed % 3)
        ours, other = jd.aggregator("config")(jacobian), jd.aggregator("imtl-g")(jacobian)
        cosine = ours @ other / (ours.norm() * other.norm())
        assert abs(float(cosine)) == pytest.approx(1.0, abs=1e-12)


def test_opposite_gradients_give_no_update() -> None:
    gramian = torch.tensor([[1.0, -2.0], [-2.0, 4.0]])
    assert jd.weighting("config")(gramian).tolist() == [0.0, 0.0]


def test_long_opposite_gradients_leave_no_random_update_beside_a_short_one() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([[7e3], [2e-5], [-3e3], [1e5], [-2.0]])
    for _ in range(50):
        first, second = torch.randn(2, 7, generator=generator)
        jacobian = lengths * torch.stack([first, second, first, first, first])
        assert not jd.aggregator("config")(jacobian).any()


def test_gradients_that_sum_to_zero_give_no_update() -> None:
    jacobian = rows(3, 10, seed=0)
    weights = jd.weighting("config")(linalg.gramian([jacobian - jacobian.mean(0)]))
    assert not weights.any()


def test_a_zero_gradient_changes_nothing_for_the_others() -> None:
    jacobian = rows(3, 10, seed=5)
    expected = jd.aggregator("config")(jacobian)
    padded = torch.cat([jacobian[:2], torch.zeros_like(jacobian[:1]), jacobian[2:]])
    torch.testing.assert_close(jd.aggregator("config")(padded), expected)
    assert jd.weighting("config")(padded @ padded.T)[2] == 0.0


def test_a_rank_that_single_precision_hides_is_found() -> None:
    # In float32, rounding gives the third eigenvalue, which is zero, a value of about 1e-7.
    jacobian = rows(2, 1000, seed=0)
    jacobian = torch.cat([jacobian, jacobian.sum(0, keepdim=True)])
    single = jacobian.float() @ jacobian.float().T
    found = jd.weighting("config")(single).double()
    expected = jd.weighting("config")(jacobian @ jacobian.T)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("m", [2, 4])
def test_preferences_of_another_length_are_refused_with_both_numbers(m: int) -> None:
    message = f"config: pref_vector has 3 values, but there are {m} objectives"
    with pytest.raises(jd.ConfigError, match=message):
        jd.weighting("config", pref_vector=PREFERENCES)(torch.eye(m))


@pytest.mark.parametrize("decades", [0, 3])
@pytest.mark.parametrize("preferences", [None, PREFERENCES])
def test_torchjd_gives_the_same_from_the_whole_jacobian(
    decades: int, preferences: list[float] | None
) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    chosen = None if preferences is None else torch.tensor(preferences, dtype=torch.float64)
    theirs = aggregation.ConFIG(chosen)
    ours = jd.aggregator("config", pref_vector=preferences)
    for seed in range(20):
        for n in (2, 3, 10):
            jacobian = rows(3, n, seed, decades)
            torch.testing.assert_close(ours(jacobian), theirs(jacobian), rtol=1e-6, atol=1e-9)
