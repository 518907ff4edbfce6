"""Uncertainty weighting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import ScalarizerSuite


class TestUW(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "uw", "shape": 3}


class TestUWWithoutAShape(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "uw"}


class TestUWOfAMatrix(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "uw", "shape": (2, 3)}


class TestUWOfOneLoss(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "uw", "shape": ()}


def value_at(s: Tensor, losses: Tensor) -> Tensor:
    method = jd.scalarizer("uw", shape=tuple(s.shape)).to(s.dtype)
    with torch.no_grad():
        method.s.copy_(s)
    return method(losses)


def test_the_value_is_the_papers() -> None:
    found = value_at(torch.tensor([0.5, -1.0]), torch.tensor([2.0, 3.0]))
    expected = 0.5 * (math.exp(-0.5) * 2 + 0.5) + 0.5 * (math.exp(1.0) * 3 - 1.0)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_it_starts_at_half_the_sum() -> None:
    method = jd.scalarizer("uw", shape=3)
    assert not method.s.any()
    assert method(torch.tensor([1.0, 2.0, 3.0])).item() == 3.0


def test_the_parameters_are_trained_with_the_models() -> None:
    method = jd.scalarizer("uw", shape=(2, 2))
    (parameter,) = method.parameters()
    assert parameter.shape == (2, 2)
    assert parameter.requires_grad
    assert list(method.state_dict()) == ["s"]


def test_the_optimal_s_is_the_logarithm_of_the_losses() -> None:
    losses = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    s = losses.log().requires_grad_()
    optimum = 0.5 * (torch.exp(-s) * losses + s).sum()
    (slope,) = torch.autograd.grad(optimum, s)
    assert slope.abs().max() < 1e-15
    assert value_at(s.detach(), losses).item() == pytest.approx(optimum.item())
    for nearby in (s + 0.1, s - 0.1):
        assert value_at(nearby.detach(), losses) > optimum


def test_training_reaches_the_optimal_s() -> None:
    losses = torch.tensor([0.1, 1.0, 10.0])
    method = jd.scalarizer("uw", shape=3)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        method(losses).backward()
        optimizer.step()
    torch.testing.assert_close(method.s.detach(), losses.log(), atol=1e-4, rtol=1e-4)


def test_negative_losses_are_served() -> None:
    assert value_at(torch.zeros(2), torch.tensor([-1.0, -3.0])).item() == -2.0


@pytest.mark.parametrize("shape", [0, -1, (2, 0), "three", 1.5])
def test_an_impossible_shape_is_refused(shape: object) -> None:
    with pytest.raises(jd.ConfigError, match="uw: shape"):
        jd.scalarizer("uw", shape=shape)


@pytest.mark.parametrize("given", [(2,), (3, 1), (1, 3), ()])
def test_losses_of_another_shape_are_refused_with_both(given: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="uw was made for losses of shape") as error:
        jd.scalarizer("uw", shape=3)(torch.ones(given))
    assert "shape [3]" in str(error.value)
    assert f"shape {list(given)}" in str(error.value)


def test_reset_puts_s_back_to_zero_under_the_optimizers_eyes() -> None:
    method = jd.scalarizer("uw", shape=2)
    parameter = method.s
    with torch.no_grad():
        parameter.fill_(3.0)
    method.reset()
    assert method.s is parameter
    assert not parameter.any()


@pytest.mark.parametrize("shape", [3, (2, 2)])
def test_torchjd_gives_the_same(shape: int | tuple[int, ...]) -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    theirs, ours = scalarization.UW(shape), jd.scalarizer("uw", shape=shape)
    generator = torch.Generator().manual_seed(0)
    s, losses = (torch.randn(ours.s.shape, generator=generator) for _ in range(2))
    with torch.no_grad():
        ours.s.copy_(s)
        next(theirs.parameters()).copy_(s)
    torch.testing.assert_close(ours(losses), theirs(losses))
