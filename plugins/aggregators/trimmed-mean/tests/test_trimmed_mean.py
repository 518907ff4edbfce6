"""The mean of each coordinate without its extreme values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import AggregatorSuite


def rows(m: int, n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, n, generator=generator, dtype=torch.float64)


def expected(jacobian: Tensor, trimmed: int) -> Tensor:
    """The definition, word for word."""
    columns = []
    for column in jacobian.T.tolist():
        kept = sorted(column)[trimmed : len(column) - trimmed]
        columns.append(sum(kept) / len(kept))
    return torch.tensor(columns, dtype=torch.float64)


class TestTrimmedMean(AggregatorSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "trimmed-mean", "trim_number": 1}
    objectives = (3, 4, 7)
    robust = True

    def optimality(self, jacobian: Tensor, direction: Tensor) -> float:
        scale = jacobian.abs().amax(dim=0).clamp(min=1e-300)
        return float(((direction - expected(jacobian, 1)).abs() / scale).sum())


class TestTrimmedMeanThatTrimsNothing(AggregatorSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "trimmed-mean", "trim_number": 0}

    def optimality(self, jacobian: Tensor, direction: Tensor) -> float:
        scale = float(jacobian.abs().sum()) or 1.0
        return float((direction - jacobian.mean(0)).norm()) / scale


@pytest.mark.parametrize("trimmed", [0, 1, 2, 3])
def test_it_leaves_out_what_the_definition_leaves_out(trimmed: int) -> None:
    for seed in range(10):
        jacobian = rows(7, 20, seed)
        found = jd.aggregator("trimmed-mean", trim_number=trimmed)(jacobian)
        torch.testing.assert_close(found, expected(jacobian, trimmed))


def test_as_much_as_possible_trimmed_leaves_the_median() -> None:
    jacobian = rows(9, 20, 0)
    found = jd.aggregator("trimmed-mean", trim_number=4)(jacobian)
    torch.testing.assert_close(found, jacobian.median(dim=0).values)


@pytest.mark.parametrize("outlier", [3e9, -3e30, float("inf"), -float("inf"), float("nan")])
def test_as_many_arbitrary_gradients_as_are_trimmed_do_not_count(outlier: float) -> None:
    honest = 1 + 0.1 * rows(5, 20, 0).float()
    jacobian = torch.cat([honest, torch.full((2, 20), outlier)])
    direction = jd.aggregator("trimmed-mean", trim_number=2)(jacobian)
    assert (direction >= honest.min(dim=0).values).all()
    assert (direction <= honest.max(dim=0).values).all()


def test_one_nan_more_than_is_trimmed_is_not_hidden() -> None:
    jacobian = torch.cat([rows(3, 20, 0), torch.full((2, 20), torch.nan)])
    assert jd.aggregator("trimmed-mean", trim_number=1)(jacobian).isnan().all()


def test_no_fewer_objectives_than_are_trimmed_twice_and_one() -> None:
    message = r"trimmed-mean: trim_number = 2 needs at least .* = 5 objectives, but there are 4"
    with pytest.raises(jd.ConfigError, match=message):
        jd.aggregator("trimmed-mean", trim_number=2)(torch.ones(4, 3))


@pytest.mark.parametrize("trimmed", [-1, 0.5, "all", None])
def test_an_impossible_number_is_refused(trimmed: object) -> None:
    with pytest.raises(jd.ConfigError, match="trimmed-mean: trim_number = "):
        jd.aggregator("trimmed-mean", trim_number=trimmed)


def test_the_number_is_asked_for() -> None:
    with pytest.raises(jd.ConfigError, match="trimmed-mean needs the setting 'trim_number'"):
        jd.aggregator("trimmed-mean")


def test_the_engine_forms_the_jacobian_for_it() -> None:
    pytest.importorskip("jd_plugin_autojac")
    model = torch.nn.Linear(4, 1, bias=False)
    inputs = torch.tensor(
        [[1.0, 0, 0, 9], [2, 0, 5, -9], [3, 1, 5, 9], [9, 1, 5, 9], [-9, 0, 0, 0]]
    )
    descent = jd.Descent(model, "trimmed-mean", trim_number=1, batch_dim=0)
    step = descent.backward(model(inputs).squeeze(1))
    assert step.weights is None
    torch.testing.assert_close(model.weight.grad, torch.tensor([[2.0, 1 / 3, 10 / 3, 6.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchjd_gives_the_same(dtype: torch.dtype) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    for trimmed in range(4):
        jacobian = rows(7, 50, trimmed).to(dtype)
        found = jd.aggregator("trimmed-mean", trim_number=trimmed)(jacobian)
        torch.testing.assert_close(found, aggregation.TrimmedMean(trimmed)(jacobian))
