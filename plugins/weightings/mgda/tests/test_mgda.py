"""MGDA."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.linalg.min_norm import duality_gap
from jdframework.testing import FAMILIES, Family, WeightingSuite


class TestMGDA(WeightingSuite):
    spec = "mgda"
    optimality_tolerance: ClassVar[float] = 1e-9

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The duality gap, and the distance from the simplex."""
        outside = abs(float(weights.sum()) - 1) + float((-weights).clamp(min=0.0).max())
        return duality_gap(gramian.numpy(), weights.numpy()) + outside


def normal(seed: int, m: int, n: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, n, generator=generator, dtype=torch.float64)


def length(jacobian: Tensor, weights: Tensor) -> float:
    return float((weights @ jacobian).norm())


@pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
@pytest.mark.parametrize("m", [2, 5, 20, 64])
def test_the_duality_gap_is_closed_on_every_family(family: Family, m: int) -> None:
    for seed in range(3):
        jacobian = family(m, seed)
        matrix = jacobian @ jacobian.T
        assert duality_gap(matrix.numpy(), jd.weighting("mgda")(matrix).numpy()) <= 1e-9


@pytest.mark.parametrize("m", [2, 3, 10, 50])
def test_every_projection_on_the_update_is_at_least_its_squared_length(m: int) -> None:
    for seed in range(10):
        jacobian = normal(seed, m, n=100)
        update = jd.aggregator("mgda")(jacobian)
        assert (jacobian @ update).min() >= (1 - 1e-9) * update.square().sum()


def test_two_objectives_have_their_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        rows = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        exponents = 12 * torch.rand(2, 1, generator=generator, dtype=torch.float64) - 6
        jacobian = rows * 10.0**exponents
        short, long = jacobian[jacobian.norm(dim=1).argsort()]
        apart = short - long
        expected = short - (short @ apart / apart.square().sum()).clamp(0.0, 1.0) * apart
        found = jd.weighting("mgda")(jacobian @ jacobian.T) @ jacobian
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(short.norm()))


def test_orthogonal_gradients_are_weighted_by_their_inverse_squares() -> None:
    squares = torch.tensor([1e-12, 1.0, 4.0, 1e12], dtype=torch.float64)
    found = jd.weighting("mgda")(squares.diag())
    torch.testing.assert_close(found, (1 / squares) / (1 / squares).sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("m", [2, 3, 5, 10, 20, 40])
def test_the_update_is_never_longer_than_torchjds(m: int) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    for seed in range(5):
        for jacobian in (normal(seed, m), normal(seed, m, n=max(1, m // 2)), normal(seed, m) + 0.3):
            matrix = jacobian @ jacobian.T
            theirs = length(jacobian, aggregation.MGDAWeighting()(matrix))
            assert length(jacobian, jd.weighting("mgda")(matrix)) <= theirs + 1e-7


def test_torchjd_stops_above_the_optimum_and_we_do_not() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    excess = []
    for seed in range(10):
        jacobian = normal(seed, m=20, n=40)
        matrix = jacobian @ jacobian.T
        ours = jd.weighting("mgda")(matrix)
        theirs = aggregation.MGDAWeighting()(matrix)
        assert duality_gap(matrix.numpy(), ours.numpy()) <= 1e-9
        excess.append((length(jacobian, theirs) / length(jacobian, ours)) ** 2 - 1)
    assert min(excess) >= 0.0
    assert max(excess) > 0.01, "torchjd has mended this"


@pytest.mark.parametrize("m", [2, 5, 20])
def test_where_zero_is_in_the_hull_the_update_vanishes(m: int) -> None:
    jacobian = normal(1, m)
    jacobian[-1] = -torch.linspace(0.5, 1.5, m - 1, dtype=torch.float64) @ jacobian[:-1]
    for norms in (torch.ones(m, dtype=torch.float64), torch.logspace(-6, 6, m).double()):
        rows = norms[:, None] * jacobian
        assert length(rows, jd.weighting("mgda")(rows @ rows.T)) <= 1e-7 * rows.norm(dim=1).min()


def test_opposite_gradients_cancel_in_proportion_to_their_lengths() -> None:
    jacobian = torch.tensor([[3.0, 4.0], [-6.0, -8.0]])
    torch.testing.assert_close(
        jd.weighting("mgda")(jacobian @ jacobian.T), torch.tensor([2 / 3, 1 / 3])
    )


def test_duplicates_do_not_change_the_update() -> None:
    jacobian = normal(2, m=4)
    expected = jd.aggregator("mgda")(jacobian)
    twice = torch.cat([jacobian, jacobian[1:3]])
    torch.testing.assert_close(jd.aggregator("mgda")(twice), expected, rtol=0, atol=1e-10)


def test_a_vanishing_gradient_stops_the_others() -> None:
    jacobian = normal(3, m=3)
    jacobian[1] = 0.0
    assert jd.weighting("mgda")(jacobian @ jacobian.T).tolist() == [0.0, 1.0, 0.0]
    assert not jd.aggregator("mgda")(jacobian).any()


def test_vanishing_gradients_share_the_weight() -> None:
    assert jd.weighting("mgda")(torch.zeros(4, 4)).tolist() == [0.25] * 4


def test_one_objective_keeps_its_gradient() -> None:
    assert jd.weighting("mgda")(torch.tensor([[7.0]])).tolist() == [1.0]
