"""The sum, as a weighting, as an aggregator and as a scalarizer."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import AggregatorSuite, ScalarizerSuite, WeightingSuite


class TestSumWeighting(WeightingSuite):
    spec = "sum"
    optimality_tolerance: ClassVar[float] = 0.0

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        return float((weights - 1).abs().max())


class TestSumAggregator(AggregatorSuite):
    spec = "sum"


class TestSum(ScalarizerSuite):
    spec = "sum"


@pytest.mark.parametrize("m", [1, 2, 5])
def test_every_objective_has_weight_one(m: int) -> None:
    assert jd.weighting("sum")(torch.eye(m)).tolist() == [1.0] * m


def test_the_gradients_themselves_do_not_matter() -> None:
    for gramian in (torch.zeros(2, 2), torch.full((2, 2), float("nan")), 1e30 * torch.eye(2)):
        assert jd.weighting("sum")(gramian).tolist() == [1.0, 1.0]


def test_the_weighting_and_the_scalarizer_give_the_same_step() -> None:
    jacobian = torch.tensor([[1.0, 2.0], [3.0, -4.0], [0.0, 5.0]])
    parameters = torch.zeros(2, requires_grad=True)
    jd.scalarizer("sum")(jacobian @ parameters).backward()
    torch.testing.assert_close(jd.aggregator("sum")(jacobian), parameters.grad)


def test_the_sum_is_over_all_losses_of_any_shape() -> None:
    assert jd.scalarizer("sum")(torch.arange(6.0).reshape(2, 3)).item() == 15.0


@pytest.mark.parametrize("spelling", ["ew", "EW", "e-w"])
def test_equal_weighting_is_another_name_for_it(spelling: str) -> None:
    assert jd.weighting(spelling).name == jd.scalarizer(spelling).name == "sum"
    assert jd.describe(spelling).aliases == ("ew",)


def test_torchjd_gives_the_same() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    scalarization = pytest.importorskip("torchjd.scalarization")
    jacobian = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(jd.aggregator("sum")(jacobian), aggregation.Sum()(jacobian))
    losses = jacobian.square()
    torch.testing.assert_close(jd.scalarizer("sum")(losses), scalarization.Sum()(losses))
