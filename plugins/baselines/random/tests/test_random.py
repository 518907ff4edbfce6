"""Random weights, as a weighting, as an aggregator and as a scalarizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import AggregatorSuite, ScalarizerSuite, WeightingSuite


class TestRandomWeighting(WeightingSuite):
    spec = "random"
    permutation_equivariant = False
    optimality_tolerance: ClassVar[float] = 1e-15

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """Positive numbers that sum to one."""
        return abs(float(weights.sum()) - 1) + float((weights <= 0).sum())


class TestRandomAggregator(AggregatorSuite):
    spec = "random"
    permutation_invariant = False


class TestRandom(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "random", "seed": 7}
    permutation_invariant = False


def draws(method: Any, steps: int = 4) -> Tensor:
    return torch.stack([method(torch.eye(5, dtype=torch.float64)) for _ in range(steps)])


@pytest.mark.parametrize("spelling", ["rlw", "RLW", "r_l_w"])
def test_random_loss_weighting_is_another_name_for_it(spelling: str) -> None:
    assert jd.weighting(spelling).name == jd.scalarizer(spelling).name == "random"
    assert jd.describe(spelling).aliases == ("rlw",)


def test_each_call_draws_new_weights_that_sum_to_one() -> None:
    weights = draws(jd.weighting("random", seed=0), steps=200)
    torch.testing.assert_close(weights.sum(1), torch.ones(200, dtype=torch.float64))
    assert (weights > 0).all()
    assert len(weights.unique(dim=0)) == 200
    # No objective is favoured: the mean of 200 draws is within four of its standard deviations.
    assert ((weights.mean(0) - 0.2).abs() < 4 * weights.std(0) / 200**0.5).all()


def test_the_weights_are_the_softmax_of_normal_numbers() -> None:
    generator = torch.Generator().manual_seed(11)
    normal = torch.randn(5, generator=generator, dtype=torch.float64)
    found = jd.weighting("random", seed=11)(torch.eye(5, dtype=torch.float64))
    assert torch.equal(found, normal.softmax(0))


def test_a_seed_gives_the_same_weights_again() -> None:
    assert torch.equal(draws(jd.weighting("random", seed=3)), draws(jd.weighting("random", seed=3)))
    assert not torch.equal(
        draws(jd.weighting("random", seed=3)), draws(jd.weighting("random", seed=4))
    )


def test_without_a_seed_torchs_global_generator_decides() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = draws(jd.weighting("random"))
        torch.manual_seed(1)
        assert torch.equal(draws(jd.weighting("random")), first)
        assert not torch.equal(draws(jd.weighting("random")), first)


def test_the_same_seed_gives_both_kinds_the_same_weights() -> None:
    losses = torch.arange(1.0, 6.0, dtype=torch.float64, requires_grad=True)
    jd.scalarizer("random", seed=5)(losses).backward()
    expected = jd.weighting("random", seed=5)(torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(losses.grad, expected)


def test_a_seeded_state_is_saved_and_an_unseeded_method_has_none() -> None:
    method, resumed = jd.weighting("random", seed=0), jd.weighting("random", seed=99)
    draws(method)
    resumed.load_state_dict(method.state_dict(), strict=True)
    assert torch.equal(draws(resumed), draws(method))
    assert not any(state.numel() for state in jd.weighting("random").state_dict().values())


def test_reset_starts_the_sequence_anew() -> None:
    method = jd.weighting("random", seed=0)
    first = draws(method)
    method.reset()
    assert torch.equal(draws(method), first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_seed_means_the_same_weights_in_every_precision(dtype: torch.dtype) -> None:
    found = jd.weighting("random", seed=2)(torch.eye(4, dtype=dtype))
    expected = jd.weighting("random", seed=2)(torch.eye(4, dtype=torch.float64))
    assert torch.equal(found, expected.to(dtype))


@pytest.mark.parametrize("seed", [-1, 2**64, "today", 0.5])
def test_an_impossible_seed_is_refused(seed: object) -> None:
    with pytest.raises(jd.ConfigError, match="random: seed = "):
        jd.weighting("random", seed=seed)


def test_torchjds_weights_have_the_same_distribution() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.stack([aggregation.RandomWeighting()(torch.eye(3)) for _ in range(2000)])
    method = jd.weighting("random", seed=0)
    ours = torch.stack([method(torch.eye(3)) for _ in range(2000)])
    for statistic in (torch.mean, torch.std):
        torch.testing.assert_close(statistic(ours, 0), statistic(theirs, 0), atol=0.02, rtol=0.0)
