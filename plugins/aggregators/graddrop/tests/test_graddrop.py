"""The gradients of one sign per coordinate, chosen at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import FAMILIES, AggregatorSuite

LEAK = [0.0, 0.25, 1.0]


def rows(m: int, n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, n, generator=generator, dtype=torch.float64)


def candidates(jacobian: Tensor, leak: Tensor) -> tuple[Tensor, Tensor]:
    """What the direction is where the positive values are kept, and where the negative ones."""
    shares = leak[:, None]
    return (
        ((shares + (1 - shares) * (jacobian > 0)) * jacobian).sum(0),
        ((shares + (1 - shares) * (jacobian < 0)) * jacobian).sum(0),
    )


def misfit(jacobian: Tensor, direction: Tensor, leak: Tensor) -> float:
    """How far each coordinate is from the nearer of the two, relative to its values."""
    first, second = candidates(jacobian, leak)
    gap = torch.minimum((direction - first).abs(), (direction - second).abs())
    return float((gap / jacobian.abs().sum(0).clamp(min=1e-300)).sum())


class TestGradDrop(AggregatorSuite):
    spec = "graddrop"

    def optimality(self, jacobian: Tensor, direction: Tensor) -> float:
        return misfit(jacobian, direction, jacobian.new_zeros(len(jacobian)))


class TestGradDropByMajority(AggregatorSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "graddrop", "f": "majority"}

    def sample(self, seed: int = 0) -> Tensor:
        """Columns that leave the choice to chance."""
        return FAMILIES["opposite rows"](2, seed)

    def optimality(self, jacobian: Tensor, direction: Tensor) -> float:
        total = jacobian.abs().sum(0)
        clear = jacobian.sum(0).abs() > 1e-12 * total
        wrong = (direction * jacobian.sum(0) < 0)[clear].sum()
        return float(wrong) + misfit(jacobian, direction, jacobian.new_zeros(len(jacobian)))


class TestLeakyGradDrop(AggregatorSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "graddrop", "leak": LEAK}
    objectives = (3,)
    permutation_invariant = False

    def optimality(self, jacobian: Tensor, direction: Tensor) -> float:
        return misfit(jacobian, direction, jacobian.new_tensor(LEAK))


def test_the_positive_values_are_kept_as_often_as_the_purity_says() -> None:
    column = torch.tensor([[3.0], [-2.0], [1.0], [-4.0]], dtype=torch.float64)
    direction = jd.aggregator("graddrop", seed=0)(column.expand(4, 100_000))
    assert set(direction.tolist()) == {4.0, -6.0}
    # The purity is 0.4, and four standard deviations of the share are 0.0062.
    assert float((direction > 0).double().mean()) == pytest.approx(0.4, abs=0.0062)


def test_the_expected_update_is_the_sum_of_the_gradients() -> None:
    jacobian, draws = rows(4, 10, 0), 100_000
    direction = jd.aggregator("graddrop", seed=1)(jacobian.repeat(1, draws)).reshape(draws, 10)
    deviation = direction.std(0) / draws**0.5
    assert ((direction.mean(0) - jacobian.sum(0)).abs() <= 5 * deviation + 1e-12).all()


def test_coordinates_without_conflict_are_the_plain_sum() -> None:
    jacobian = rows(5, 1000, 0).abs() * torch.tensor([1.0, -1.0]).double().repeat(500)
    for method in (jd.aggregator("graddrop", seed=0), jd.aggregator("graddrop", f="majority")):
        for _ in range(10):
            torch.testing.assert_close(method(jacobian), jacobian.sum(0))


def test_each_coordinate_and_each_step_is_drawn_anew() -> None:
    method = jd.aggregator("graddrop", seed=0)
    column = torch.tensor([[1.0], [-1.0]]).expand(2, 1000)
    first, second = method(column), method(column)
    for share in (first > 0, second > 0, first == second):
        assert 0.4 < float(share.double().mean()) < 0.6


def test_the_majority_keeps_the_sign_with_the_larger_sum() -> None:
    jacobian = torch.tensor([[1.0, -2.0, 5.0], [-3.0, -1.0, -2.0], [1.0, 2.0, -2.0]])
    for seed in range(5):
        direction = jd.aggregator("graddrop", f="majority", seed=seed)(jacobian)
        assert direction.tolist() == [-3.0, -3.0, 5.0]


def test_the_majority_draws_where_both_sums_are_equal() -> None:
    column = torch.tensor([[1.0], [-1.0]]).expand(2, 1000)
    direction = jd.aggregator("graddrop", f="majority", seed=0)(column)
    assert 0.4 < float((direction > 0).double().mean()) < 0.6


def test_what_leaks_is_never_dropped() -> None:
    jacobian = rows(3, 200, 0)
    everything = jd.aggregator("graddrop", leak=[1.0, 1.0, 1.0], seed=0)(jacobian)
    torch.testing.assert_close(everything, jacobian.sum(0))
    without = jd.aggregator("graddrop", seed=0)(jacobian)
    nothing = jd.aggregator("graddrop", leak=[0.0, 0.0, 0.0], seed=0)(jacobian)
    torch.testing.assert_close(nothing, without)
    # The same draws decide, with and without a leak.
    halves = jd.aggregator("graddrop", leak=[0.5, 0.5, 0.5], seed=0)(jacobian)
    torch.testing.assert_close(halves, 0.5 * jacobian.sum(0) + 0.5 * without)


def test_a_seed_means_the_same_signs_in_every_precision() -> None:
    jacobian = rows(3, 1000, 0).bfloat16()
    expected = jd.aggregator("graddrop", seed=3)(jacobian.double())
    for dtype in (torch.bfloat16, torch.float32):
        found = jd.aggregator("graddrop", seed=3)(jacobian.to(dtype))
        assert torch.equal(found > 0, expected > 0)


@pytest.mark.parametrize("m", [2, 4])
def test_a_leak_of_another_length_is_refused_with_both_numbers(m: int) -> None:
    message = f"graddrop: leak has 3 values, but there are {m} objectives"
    with pytest.raises(jd.ConfigError, match=message):
        jd.aggregator("graddrop", leak=LEAK)(torch.ones(m, 5))


@pytest.mark.parametrize("leak", [[0.5, 1.5], [-0.1], [float("nan")], "half", 1.5])
def test_what_are_no_shares_is_refused(leak: object) -> None:
    with pytest.raises(jd.ConfigError, match="graddrop: leak"):
        jd.aggregator("graddrop", leak=leak)


@pytest.mark.parametrize("f", ["cube", None, torch.sigmoid])
def test_an_unknown_function_is_refused_with_the_known_ones(f: object) -> None:
    with pytest.raises(jd.ConfigError, match="graddrop: f = .*'identity' or 'majority'"):
        jd.aggregator("graddrop", f=f)


@pytest.mark.parametrize("leak", [None, LEAK])
def test_torchjd_gives_the_same_from_the_same_random_numbers(leak: list[float] | None) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    theirs = aggregation.GradDrop(leak=None if leak is None else torch.tensor(leak))
    ours = jd.aggregator("graddrop", leak=leak)
    for seed in range(10):
        jacobian = rows(3, 500, seed).float()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            expected = theirs(jacobian)
            torch.manual_seed(seed)
            torch.testing.assert_close(ours(jacobian), expected, rtol=1e-5, atol=1e-6)
