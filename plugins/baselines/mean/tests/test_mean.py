"""The mean, as a weighting, as an aggregator and as a scalarizer."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import AggregatorSuite, ScalarizerSuite, WeightingSuite


class TestMeanWeighting(WeightingSuite):
    spec = "mean"
    optimality_tolerance: ClassVar[float] = 1e-15

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        return float((weights - 1 / len(gramian)).abs().max())


class TestMeanAggregator(AggregatorSuite):
    spec = "mean"

    def optimality(self, jacobian: Tensor, direction: Tensor) -> float:
        """The mean has the smallest sum of squared distances to the rows."""
        scale = float(jacobian.abs().max()) if jacobian.numel() else 0.0
        gaps = (jacobian - direction).sum(0).abs()
        return float(gaps.max()) / (scale or 1.0) if len(gaps) else 0.0


class TestMean(ScalarizerSuite):
    spec = "mean"


@pytest.mark.parametrize("m", [1, 2, 5, 100])
def test_every_objective_gets_the_same_share_of_one(m: int) -> None:
    weights = jd.weighting("mean")(torch.eye(m, dtype=torch.float64))
    assert torch.equal(weights, torch.full((m,), 1 / m, dtype=torch.float64))


def test_the_gradients_themselves_do_not_matter() -> None:
    for gramian in (torch.zeros(2, 2), torch.full((2, 2), float("nan")), 1e30 * torch.eye(2)):
        assert jd.weighting("mean")(gramian).tolist() == [0.5, 0.5]


def test_the_weighting_and_the_scalarizer_give_the_same_step() -> None:
    jacobian = torch.tensor([[1.0, 2.0], [3.0, -4.0], [0.0, 5.0]])
    parameters = torch.zeros(2, requires_grad=True)
    jd.scalarizer("mean")(jacobian @ parameters).backward()
    torch.testing.assert_close(jd.aggregator("mean")(jacobian), parameters.grad)


def test_the_mean_is_over_all_losses_of_any_shape() -> None:
    assert jd.scalarizer("mean")(torch.arange(6.0).reshape(2, 3)).item() == 2.5


def test_torchjd_gives_the_same() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    scalarization = pytest.importorskip("torchjd.scalarization")
    jacobian = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(jd.aggregator("mean")(jacobian), aggregation.Mean()(jacobian))
    losses = jacobian.square()
    torch.testing.assert_close(jd.scalarizer("mean")(losses), scalarization.Mean()(losses))


def test_it_takes_no_settings() -> None:
    with pytest.raises(jd.ConfigError, match="mean has no setting 'weights': it takes none"):
        jd.weighting("mean", weights=[1.0])
