"""COSMOS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import ScalarizerSuite

WEIGHTS = [0.5, 0.2, 0.3]


class TestCOSMOS(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "cosmos", "lambda_": 8.0, "weights": WEIGHTS}
    shapes = ((3,), (3, 1))
    permutation_invariant = False


class TestCOSMOSOfOneLoss(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "cosmos", "lambda_": 2.0, "weights": [0.7]}
    shapes = ((), (1,))


def value_and_gradient(method: Any, losses: Tensor) -> tuple[Tensor, Tensor]:
    leaf = losses.clone().requires_grad_()
    value = method(leaf)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def some_losses(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def preference(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(WEIGHTS, dtype=dtype)


def test_without_the_cosine_it_is_the_weighted_sum() -> None:
    losses = some_losses(3)
    torch.testing.assert_close(
        jd.scalarizer("cosmos", lambda_=0, weights=WEIGHTS)(losses),
        (preference() * losses).sum(),
    )


def test_losses_along_the_preference_have_the_cosine_one() -> None:
    w = preference()
    value = jd.scalarizer("cosmos", lambda_=8, weights=WEIGHTS)(4 * w)
    torch.testing.assert_close(value, 4 * w @ w - 8)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_is_the_papers_at_any_scale(scale: float, dtype: torch.dtype) -> None:
    losses, w = (scale * some_losses(3)).to(dtype), preference(dtype)
    value, gradient = value_and_gradient(jd.scalarizer("cosmos", lambda_=8, weights=w), losses)
    unit = some_losses(3).to(dtype)
    unit, w_unit = unit / unit.norm(), w / w.norm()
    torch.testing.assert_close(value, w @ losses - 8 * w_unit @ unit)
    turning = (w_unit - (w_unit @ unit) * unit) / (scale * some_losses(3).norm())
    torch.testing.assert_close(gradient, (w - 8 * turning).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_zero_losses_only_the_sum_has_a_gradient(dtype: torch.dtype) -> None:
    method = jd.scalarizer("cosmos", lambda_=8, weights=WEIGHTS)
    value, gradient = value_and_gradient(method, torch.zeros(3, dtype=dtype))
    assert value == 0
    torch.testing.assert_close(gradient, preference(dtype))


def test_some_zero_losses_are_no_exception() -> None:
    losses = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64)
    value, gradient = value_and_gradient(
        jd.scalarizer("cosmos", lambda_=1, weights=[3.0, 0.0, 4.0]), losses
    )
    assert value.item() == pytest.approx(8 - 0.8)
    torch.testing.assert_close(gradient, torch.tensor([3 - 0.3, 0.0, 4.0]).double())


def test_drawn_weights_may_be_assigned_between_two_calls() -> None:
    losses = some_losses(3)
    method = jd.scalarizer("cosmos", lambda_=8, weights=[1.0, 1.0, 1.0])
    for seed in range(3):
        torch.manual_seed(seed)
        drawn = torch.distributions.Dirichlet(torch.ones(3)).sample()
        method.weights = drawn
        expected = jd.scalarizer("cosmos", lambda_=8, weights=drawn)(losses)
        torch.testing.assert_close(method(losses), expected)


def test_lambda_is_asked_for() -> None:
    with pytest.raises(jd.ConfigError, match="cosmos needs the setting 'lambda_'"):
        jd.scalarizer("cosmos", weights=WEIGHTS)


def test_without_weights_none_is_preferred() -> None:
    losses = torch.tensor([1.0, 2.0, 4.0])
    equal = jd.scalarizer("cosmos", lambda_=2, weights=[1 / 3] * 3)(losses)
    torch.testing.assert_close(jd.scalarizer("cosmos", lambda_=2)(losses), equal)


@pytest.mark.parametrize("lambda_", [-1, float("nan"), float("inf"), "large", None])
def test_an_impossible_lambda_is_refused(lambda_: object) -> None:
    with pytest.raises(jd.ConfigError, match="cosmos: lambda_"):
        jd.scalarizer("cosmos", lambda_=lambda_, weights=WEIGHTS)


@pytest.mark.parametrize(
    "weights", [[], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [float("inf")], "high"]
)
def test_what_is_no_preference_is_refused(weights: object) -> None:
    with pytest.raises(jd.ConfigError, match="cosmos: weights"):
        jd.scalarizer("cosmos", lambda_=1, weights=weights)


@pytest.mark.parametrize("m", [1, 2, 4])
def test_another_number_of_losses_is_refused_with_both_numbers(m: int) -> None:
    with pytest.raises(jd.ConfigError, match=f"weights has 3 values, but there are {m} objectives"):
        jd.scalarizer("cosmos", lambda_=1, weights=WEIGHTS)(torch.ones(m))


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3)])
@pytest.mark.parametrize("lambda_", [0.0, 0.01, 8.0])
def test_torchjd_gives_the_same(shape: tuple[int, ...], lambda_: float) -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    weights, losses = some_losses(*shape).abs(), 3 * some_losses(2, *shape)[1]
    method = jd.scalarizer("cosmos", lambda_=lambda_, weights=weights.flatten())
    ours = value_and_gradient(method, losses)
    theirs = value_and_gradient(scalarization.COSMOS(lambda_, weights), losses)
    torch.testing.assert_close(ours, theirs)


def test_torchjd_loses_the_cosine_of_small_losses_where_this_does_not() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    w = preference()
    losses = 1e-10 * w
    assert jd.scalarizer("cosmos", lambda_=1, weights=w)(losses).item() == pytest.approx(-1)
    assert abs(scalarization.COSMOS(1.0, w)(losses).item() + 1) > 0.5
