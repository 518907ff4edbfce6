"""IMTL-L."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import ScalarizerSuite


class TestIMTLL(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "imtl-l", "shape": 3}


class TestIMTLLWithoutAShape(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "imtl-l"}


class TestIMTLLOfAMatrix(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "imtl-l", "shape": (2, 3)}


class TestIMTLLOfOneLoss(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "imtl-l", "shape": ()}


def at(name: str, s: Tensor) -> Any:
    """The method with its trainable values set to ``s``."""
    method = jd.scalarizer(name, shape=tuple(s.shape)).to(s.dtype)
    with torch.no_grad():
        method.s.copy_(s)
    return method


def test_the_value_is_the_papers() -> None:
    found = at("imtl-l", torch.tensor([0.5, -1.0]))(torch.tensor([2.0, 3.0]))
    expected = math.exp(0.5) * 2 - 0.5 + math.exp(-1.0) * 3 + 1.0
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_it_starts_at_the_sum() -> None:
    method = jd.scalarizer("imtl-l", shape=3)
    assert not method.s.any()
    assert method(torch.tensor([1.0, 2.0, 3.0])).item() == 6.0


def test_the_parameters_are_trained_with_the_models() -> None:
    method = jd.scalarizer("imtl-l", shape=(2, 2))
    (parameter,) = method.parameters()
    assert parameter.shape == (2, 2)
    assert parameter.requires_grad
    assert list(method.state_dict()) == ["s"]


def test_the_optimal_s_makes_every_scaled_loss_one() -> None:
    losses = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    method = at("imtl-l", -losses.log())
    optimum = method(losses)
    (slope,) = torch.autograd.grad(optimum, method.s)
    assert slope.abs().max() < 1e-14
    torch.testing.assert_close(method.s.exp() * losses, torch.ones_like(losses))
    for nearby in (-losses.log() + 0.1, -losses.log() - 0.1):
        assert at("imtl-l", nearby)(losses) > optimum


def test_training_reaches_the_optimal_s() -> None:
    losses = torch.tensor([0.1, 1.0, 10.0])
    method = jd.scalarizer("imtl-l", shape=3)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.15)
    for _ in range(500):
        optimizer.zero_grad()
        method(losses).backward()
        optimizer.step()
    torch.testing.assert_close(method.s.detach(), -losses.log(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 2)])
def test_it_is_twice_uw_at_the_opposite_s(shape: tuple[int, ...]) -> None:
    if "uw" not in jd.available("scalarizer"):
        pytest.skip("jd-plugin-uw is not installed")
    generator = torch.Generator().manual_seed(0)
    s, drawn = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    ours, theirs = at("imtl-l", s), at("uw", -s)
    losses = drawn.clone().requires_grad_()
    value, twice = ours(losses), 2 * theirs(losses)
    torch.testing.assert_close(value, twice, rtol=1e-14, atol=1e-14)
    found = torch.autograd.grad(value, (losses, ours.s))
    expected = torch.autograd.grad(twice, (losses, theirs.s))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(found[1], -expected[1], rtol=1e-14, atol=1e-14)


def test_negative_losses_are_served() -> None:
    assert jd.scalarizer("imtl-l", shape=2)(torch.tensor([-1.0, -3.0])).item() == -4.0


@pytest.mark.parametrize("shape", [0, -1, (2, 0), "three", 1.5])
def test_an_impossible_shape_is_refused(shape: object) -> None:
    with pytest.raises(jd.ConfigError, match="imtl-l: shape"):
        jd.scalarizer("imtl-l", shape=shape)


@pytest.mark.parametrize("given", [(2,), (3, 1), (1, 3), ()])
def test_losses_of_another_shape_are_refused_with_both(given: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="imtl-l was made for losses of shape") as error:
        jd.scalarizer("imtl-l", shape=3)(torch.ones(given))
    assert "shape [3]" in str(error.value)
    assert f"shape {list(given)}" in str(error.value)


def test_reset_puts_s_back_to_zero_under_the_optimizers_eyes() -> None:
    method = jd.scalarizer("imtl-l", shape=2)
    parameter = method.s
    with torch.no_grad():
        parameter.fill_(3.0)
    method.reset()
    assert method.s is parameter
    assert not parameter.any()


@pytest.mark.parametrize("shape", [3, (2, 2)])
def test_torchjd_gives_the_same(shape: int | tuple[int, ...]) -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    theirs, ours = scalarization.IMTLL(shape), jd.scalarizer("imtl-l", shape=shape)
    generator = torch.Generator().manual_seed(0)
    s, losses = (torch.randn(ours.s.shape, generator=generator) for _ in range(2))
    with torch.no_grad():
        ours.s.copy_(s)
        next(theirs.parameters()).copy_(s)
    torch.testing.assert_close(ours(losses), theirs(losses))
