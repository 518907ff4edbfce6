"""Fixed weights, as a weighting, as an aggregator and as a scalarizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import AggregatorSuite, ScalarizerSuite, WeightingSuite

WEIGHTS = [0.5, -2.0, 3.0]


class TestConstantWeighting(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "constant", "weights": WEIGHTS}
    objectives = (3,)
    permutation_equivariant = False
    optimality_tolerance: ClassVar[float] = 0.0

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        return float((weights - gramian.new_tensor(WEIGHTS)).abs().max())


class TestConstantAggregator(AggregatorSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "constant", "weights": WEIGHTS}
    objectives = (3,)
    permutation_invariant = False


class TestConstant(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "constant", "weights": WEIGHTS}
    shapes = ((3,), (3, 1))
    permutation_invariant = False


class TestOneConstantWeight(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "constant", "weights": [2.0]}
    objectives = (1,)


def test_the_weights_are_those_that_were_given() -> None:
    assert jd.weighting("constant", weights=WEIGHTS)(torch.eye(3)).tolist() == WEIGHTS
    assert jd.weighting("constant", weights=torch.tensor(WEIGHTS))(torch.eye(3)).tolist() == WEIGHTS


def test_the_weights_are_no_state() -> None:
    assert jd.weighting("constant", weights=WEIGHTS).state_dict() == {}


def test_the_weights_follow_the_method_to_another_device() -> None:
    method = jd.weighting("constant", weights=WEIGHTS).to("meta")
    assert method.weights.device.type == "meta"


@pytest.mark.parametrize("m", [1, 2, 4])
def test_another_number_of_objectives_is_refused_with_both_numbers(m: int) -> None:
    message = f"constant: weights has 3 values, but there are {m} objectives"
    with pytest.raises(jd.ConfigError, match=message):
        jd.weighting("constant", weights=WEIGHTS)(torch.eye(m))
    with pytest.raises(jd.ConfigError, match=message):
        jd.aggregator("constant", weights=WEIGHTS)(torch.ones(m, 5))
    with pytest.raises(jd.ConfigError, match=message):
        jd.scalarizer("constant", weights=WEIGHTS)(torch.ones(m))


@pytest.mark.parametrize("weights", [[], "heavy", [[1.0], [1.0, 2.0]], [None], None])
def test_what_are_no_weights_is_refused(weights: object) -> None:
    with pytest.raises(jd.ConfigError, match="constant: weights"):
        jd.weighting("constant", weights=weights)


def test_the_weights_are_asked_for() -> None:
    for kind in (jd.weighting, jd.aggregator, jd.scalarizer):
        with pytest.raises(jd.ConfigError, match="constant needs the setting 'weights'"):
            kind("constant")


def test_the_weighting_and_the_scalarizer_give_the_same_step() -> None:
    jacobian = torch.tensor([[1.0, 2.0], [3.0, -4.0], [0.0, 5.0]])
    parameters = torch.zeros(2, requires_grad=True)
    jd.scalarizer("constant", weights=WEIGHTS)(jacobian @ parameters).backward()
    found = jd.aggregator("constant", weights=WEIGHTS)(jacobian)
    torch.testing.assert_close(found, parameters.grad)


def test_losses_of_two_dimensions_are_weighed_in_the_order_of_flatten() -> None:
    method = jd.scalarizer("constant", weights=[1.0, 10.0, 100.0, 1000.0])
    assert method(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).item() == 4321.0


def test_torchjd_gives_the_same() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    scalarization = pytest.importorskip("torchjd.scalarization")
    weights = torch.tensor(WEIGHTS)
    jacobian = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        jd.aggregator("constant", weights=weights)(jacobian),
        aggregation.Constant(weights)(jacobian),
    )
    losses = jacobian[:, 0].square()
    torch.testing.assert_close(
        jd.scalarizer("constant", weights=weights)(losses), scalarization.Constant(weights)(losses)
    )


@pytest.mark.parametrize("kind", [jd.weighting, jd.scalarizer])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (1, 2, 2)])
def test_weights_of_the_losses_shape_are_as_good_as_a_list(kind: Any, shape: Any) -> None:
    weights = torch.rand(shape) + 0.5
    of = torch.rand(shape) if kind is jd.scalarizer else torch.eye(weights.numel())
    expected = kind("constant", weights=weights.flatten().tolist())(of)
    for given in (weights, weights.tolist(), weights.numpy()):
        method = kind("constant", weights=given)
        torch.testing.assert_close(method(of), expected)
        again = type(method)(**json.loads(method.config.model_dump_json()))
        assert again.config == method.config
        torch.testing.assert_close(again(of), expected)


def test_weights_and_losses_of_two_shapes_are_refused_with_both() -> None:
    method = jd.scalarizer("constant", weights=torch.ones(2, 3))
    with pytest.raises(jd.ConfigError, match=r"shape \[2, 3\], but the losses have .*\[3, 2\]"):
        method(torch.ones(3, 2))
    with pytest.raises(jd.ConfigError, match=r"6 values in the shape \[2, 3\].* 8 .*\[2, 4\]"):
        method(torch.ones(2, 4))
    with pytest.raises(jd.ConfigError, match=r"shape \[\], but the losses have the shape \[1\]"):
        jd.scalarizer("constant", weights=1.0)(torch.ones(1))


def test_a_step_takes_weights_of_the_losses_shape() -> None:
    model = torch.nn.Linear(2, 4)
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    descent = jd.Descent(model, "constant", weights=weights)
    step = descent.backward(model(torch.ones(1, 2)).reshape(2, 2))
    torch.testing.assert_close(step.weights, weights.flatten())
