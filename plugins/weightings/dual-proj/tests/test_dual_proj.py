"""The mean gradient, projected onto the dual cone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import AggregatorSuite, WeightingSuite

PREFERENCES = [0.2, 1.0, 3.0]


def residual(gramian: Tensor, weights: Tensor, preferences: Tensor) -> float:
    """The largest violation of a KKT condition, on the row-normalised problem."""
    norms = gramian.diagonal().sqrt()
    scale = float(preferences.abs() @ norms)
    if scale == 0.0:
        return 0.0
    gap = (weights - preferences) * norms / scale
    slopes = (gramian @ weights) / torch.where(norms > 0, norms, 1.0) / scale
    unmet = torch.stack([-gap, -slopes, torch.minimum(gap, slopes).abs()])
    return float(unmet.max())


def uneven(seed: int, decades: float) -> Tensor:
    """Random rows, the shortest of them ``10 ** decades`` times shorter than the longest."""
    generator = torch.Generator().manual_seed(seed)
    m = 2 + seed % 7
    rows = torch.randn(m, 12, generator=generator, dtype=torch.float64)
    rows += torch.randn(12, generator=generator, dtype=torch.float64) * (-0.5) ** (seed % 3)
    order = torch.randperm(m, generator=generator)
    return rows * torch.logspace(0, -decades, m, dtype=torch.float64)[order, None]


class TestDualProj(WeightingSuite):
    spec = "dual-proj"

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        return residual(gramian, weights, torch.full_like(weights, 1 / len(weights)))


class TestDualProjAggregator(AggregatorSuite):
    spec = "dual-proj"


class TestDualProjWithPreferences(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "dual-proj", "pref_vector": PREFERENCES}
    objectives = (3,)
    permutation_equivariant = False

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        return residual(gramian, weights, gramian.new_tensor(PREFERENCES))


@pytest.mark.parametrize("decades", [0, 1, 2, 4, 6])
def test_no_objective_gets_worse_however_uneven_the_gradients(decades: int) -> None:
    conflicts = 0
    for seed in range(100):
        jacobian = uneven(seed, decades)
        direction = jd.aggregator("dual-proj")(jacobian)
        cosines = jacobian @ direction / (jacobian.norm(dim=1) * direction.norm())
        assert cosines.min() >= -1e-6, f"seed {seed}: the cosines are {cosines.tolist()}"
        conflicts += bool((jacobian @ jacobian.mean(0) < 0).any())
    assert conflicts > 10, "the mean of these gradients is too seldom in conflict to test anything"


def test_gradients_whose_mean_is_harmless_get_the_mean() -> None:
    gramian = torch.tensor([[1.0, -0.5], [-0.5, 1.0]])
    torch.testing.assert_close(jd.weighting("dual-proj")(gramian), torch.tensor([0.5, 0.5]))


def test_two_objectives_in_conflict_get_the_closed_form() -> None:
    jacobian = torch.tensor([[1.0, 0.0], [-4.0, 3.0]], dtype=torch.float64)
    # The mean, (-1.5, 1.5), is moved along the first row until it is orthogonal to it.
    expected = torch.tensor([0.0, 1.5], dtype=torch.float64)
    torch.testing.assert_close(jd.aggregator("dual-proj")(jacobian), expected)


def test_no_harmless_direction_is_closer_to_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    for seed in range(20):
        jacobian = uneven(seed, 1)
        mean, direction = jacobian.mean(0), jd.aggregator("dual-proj")(jacobian)
        steps = torch.randn(2000, 12, generator=generator, dtype=torch.float64)
        others = direction + 10.0 ** -(seed % 5) * direction.norm() * steps
        harmless = others[(others @ jacobian.T >= 0).all(dim=1)]
        assert ((harmless - mean).norm(dim=1) >= (direction - mean).norm() * (1 - 1e-9)).all()


def test_upgrad_is_another_method() -> None:
    pytest.importorskip("jd_plugin_upgrad")
    gramian = torch.tensor([[1.0, -0.5], [-0.5, 1.0]])
    assert not torch.allclose(jd.weighting("dual-proj")(gramian), jd.weighting("upgrad")(gramian))


@pytest.mark.parametrize("m", [2, 4])
def test_preferences_of_another_length_are_refused_with_both_numbers(m: int) -> None:
    message = f"dual-proj: pref_vector has 3 values, but there are {m} objectives"
    with pytest.raises(jd.ConfigError, match=message):
        jd.weighting("dual-proj", pref_vector=PREFERENCES)(torch.eye(m))


@pytest.mark.parametrize("settings", [{"norm_eps": -1.0}, {"reg_eps": -1e-9}, {"solver": 3}])
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    (field,) = settings
    with pytest.raises(jd.ConfigError, match=f"dual-proj: {field} = "):
        jd.weighting("dual-proj", **settings)


def test_quadprog_gives_the_same() -> None:
    pytest.importorskip("quadprog")
    pytest.importorskip("qpsolvers")
    for seed in range(20):
        gramian = uneven(seed, 1) @ uneven(seed, 1).T
        found = jd.weighting("dual-proj", solver="quadprog")(gramian)
        expected = jd.weighting("dual-proj")(gramian)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_torchjd_gives_the_same_once_the_gramian_is_regularised() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    ours = jd.weighting("dual-proj", reg_eps=1e-4, norm_eps=1e-4)
    preferring = jd.weighting("dual-proj", pref_vector=PREFERENCES, reg_eps=1e-4)
    for seed in range(40):
        jacobian = uneven(seed, 0.5)
        gramian = jacobian @ jacobian.T
        theirs = aggregation.DualProjWeighting()(gramian)
        torch.testing.assert_close(ours(gramian), theirs, rtol=1e-5, atol=1e-5)
        three = gramian[:3, :3]
        if len(three) == 3:
            theirs = aggregation.DualProjWeighting(three.new_tensor(PREFERENCES))(three)
            torch.testing.assert_close(preferring(three), theirs, rtol=1e-5, atol=1e-5)


def test_small_gradients_do_not_change_dual_proj_as_they_change_torchjds() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    gramian = torch.tensor([[1.0, -1.5], [-1.5, 4.0]], dtype=torch.float64)
    expected = torch.tensor([0.75, 0.5], dtype=torch.float64)
    torch.testing.assert_close(jd.weighting("dual-proj")(1e-12 * gramian), expected)
    theirs = aggregation.DualProjWeighting()(1e-12 * gramian)
    torch.testing.assert_close(theirs, torch.full_like(expected, 0.5))
    as_theirs = jd.weighting("dual-proj", norm_eps=1e-4)(1e-12 * gramian)
    torch.testing.assert_close(as_theirs, theirs)


def test_a_small_gradient_is_kept_where_torchjd_loses_it() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = torch.tensor([[1.0, 0.0], [-1e-3, 1e-3]], dtype=torch.float64)
    unit = torch.nn.functional.normalize(jacobian)
    ours, theirs = jd.aggregator("dual-proj")(jacobian), aggregation.DualProj()(jacobian)
    assert (unit @ ours).min() >= -1e-12 * ours.norm()
    assert (unit @ theirs)[1] < -0.5 * theirs.norm()
