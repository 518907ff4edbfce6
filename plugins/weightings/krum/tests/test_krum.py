"""The gradients that are closest to their neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import AggregatorSuite, WeightingSuite


def rows(m: int, n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, n, generator=generator, dtype=torch.float64)


def selected(jacobian: Tensor, f: int, k: int, power: int) -> list[int]:
    """The definition, word for word, from the gradients themselves."""
    scores = []
    for i, row in enumerate(jacobian):
        others = [float((row - other).norm()) for j, other in enumerate(jacobian) if j != i]
        nearest = sorted(others)[: len(jacobian) - f - 2]
        scores.append(sum(distance**power for distance in nearest))
    return sorted(range(len(jacobian)), key=lambda i: scores[i])[:k]


class TestKrum(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "krum", "n_byzantine": 1, "n_selected": 2}
    objectives = (5, 7, 8)
    # Of equal scores the first wins.
    permutation_equivariant = False

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """No gradient that was left out has a score below one that was selected."""
        squares = gramian.diagonal()
        distances = squares[:, None] + squares - 2 * gramian
        scores = distances.sort(dim=1).values[:, 1 : len(gramian) - 2].sum(dim=1)
        chosen = weights > 0
        scale = float(squares.max().clamp(min=1e-300))
        assert weights[chosen].tolist() == [0.5, 0.5]
        return float((scores[chosen].max() - scores[~chosen].min()).clamp(min=0.0)) / scale


class TestKrumAggregator(AggregatorSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "krum", "n_byzantine": 1, "n_selected": 2}
    objectives = (5, 7, 8)
    permutation_invariant = False


class TestKrumWithDistances(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "krum", "n_byzantine": 2, "score": "distance"}
    objectives = (7, 8)
    permutation_equivariant = False


class TestKrumWithoutAdversaries(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "krum", "n_byzantine": 0}
    permutation_equivariant = False


@pytest.mark.parametrize("spelling", ["multi-krum", "Multi_Krum", "multikrum"])
def test_multi_krum_is_another_name_for_it(spelling: str) -> None:
    assert jd.weighting(spelling, n_byzantine=1).name == "krum"
    assert jd.describe(spelling).aliases == ("multi-krum",)


@pytest.mark.parametrize(("score", "power"), [("squared", 2), ("distance", 1)])
@pytest.mark.parametrize(("m", "f", "k"), [(5, 1, 1), (7, 2, 3), (9, 1, 4), (6, 0, 1), (11, 4, 2)])
def test_it_selects_what_the_definition_selects(
    m: int, f: int, k: int, score: str, power: int
) -> None:
    method = jd.aggregator("krum", n_byzantine=f, n_selected=k, score=score)
    for seed in range(50):
        jacobian = rows(m, 6, seed)
        expected = jacobian[selected(jacobian, f, k, power)].mean(0)
        torch.testing.assert_close(method(jacobian), expected)


def test_the_order_of_the_objectives_matters_only_for_equal_scores() -> None:
    method = jd.weighting("krum", n_byzantine=1, n_selected=3)
    for seed in range(50):
        jacobian = rows(8, 6, seed)
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        expected = method(jacobian @ jacobian.T)[order]
        jacobian = jacobian[order]
        assert torch.equal(method(jacobian @ jacobian.T), expected)


def test_of_equal_scores_the_first_wins() -> None:
    square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [0.0, 0.0]])
    method = jd.weighting("krum", n_byzantine=0, n_selected=3)
    # The middle has the lowest score, and the four corners tie.
    assert method(square @ square.T).nonzero().flatten().tolist() == [0, 1, 4]


@pytest.mark.parametrize("distance", [1e1, 1e3, 1e6])
def test_arbitrary_gradients_are_never_selected_however_far(distance: float) -> None:
    for seed in range(20):
        honest = 1 + 0.1 * rows(7, 10, seed)
        jacobian = torch.cat([distance * rows(2, 10, 100 + seed), honest])
        weights = jd.weighting("krum", n_byzantine=2, n_selected=5)(jacobian @ jacobian.T)
        assert weights[:2].tolist() == [0.0, 0.0]


def test_two_colluding_gradients_are_outvoted() -> None:
    jacobian = torch.cat([torch.full((2, 10), -9.0).double(), 1 + 0.1 * rows(5, 10, 0)])
    assert not jd.weighting("krum", n_byzantine=2)(jacobian @ jacobian.T)[:2].any()


@pytest.mark.parametrize(("f", "m"), [(1, 4), (2, 6), (3, 1)])
def test_too_few_objectives_are_refused_with_the_number_that_is_needed(f: int, m: int) -> None:
    message = f"krum: n_byzantine = {f} needs at least .* = {2 * f + 3} objectives.* are {m}"
    with pytest.raises(jd.ConfigError, match=message):
        jd.weighting("krum", n_byzantine=f)(torch.eye(m))


def test_more_cannot_be_selected_than_there_are() -> None:
    with pytest.raises(jd.ConfigError, match="krum: n_selected = 6, but there are only 5"):
        jd.weighting("krum", n_byzantine=1, n_selected=6)(torch.eye(5))


@pytest.mark.parametrize(
    "settings", [{"n_byzantine": -1}, {"n_selected": 0}, {"score": "cubed"}, {"n_byzantine": 0.5}]
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    (field,) = settings
    with pytest.raises(jd.ConfigError, match=f"krum: {field} = "):
        jd.weighting("krum", **{"n_byzantine": 1, **settings})


def test_the_number_of_adversaries_is_asked_for() -> None:
    with pytest.raises(jd.ConfigError, match="krum needs the setting 'n_byzantine'"):
        jd.weighting("krum")


def test_torchjd_gives_the_same_for_distances_that_are_not_squared() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    theirs = aggregation.Krum(n_byzantine=2, n_selected=3)
    ours = jd.aggregator("krum", n_byzantine=2, n_selected=3, score="distance")
    for seed in range(50):
        jacobian = rows(9, 6, seed)
        torch.testing.assert_close(ours(jacobian), theirs(jacobian))


def test_the_papers_score_selects_another_gradient_than_torchjd_now_and_then() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    theirs = aggregation.Krum(n_byzantine=2)
    ours = jd.aggregator("krum", n_byzantine=2)
    samples = [rows(9, 6, seed) for seed in range(100)]
    others = sum(not torch.equal(ours(sample), theirs(sample)) for sample in samples)
    assert 5 < others < 40
