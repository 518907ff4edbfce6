"""The smooth Tchebycheff scalarization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import ScalarizerSuite

WEIGHTS = [0.5, 0.2, 0.3]
IDEAL = [0.1, -0.4, 0.0]


class TestSTCH(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "stch", "mu": 0.1}


class TestSTCHWithAPreference(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {
        "name": "stch",
        "mu": 1.0,
        "weights": WEIGHTS,
        "reference": IDEAL,
    }
    shapes = ((3,), (3, 1))
    permutation_invariant = False


def losses_and_gradient(method: Any, losses: Tensor) -> tuple[Tensor, Tensor]:
    leaf = losses.clone().requires_grad_()
    value = method(leaf)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def some_losses(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("mu", [0.01, 0.1, 1.0, 30.0])
def test_the_value_is_the_papers(mu: float) -> None:
    losses, w, z = some_losses(3), torch.tensor(WEIGHTS), torch.tensor(IDEAL)
    expected = mu * (w.double() * (losses - z.double()) / mu).exp().sum().log()
    found = jd.scalarizer("stch", mu=mu, weights=WEIGHTS, reference=IDEAL)(losses)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_it_lies_between_the_maximum_and_mu_log_m_above_it() -> None:
    losses, mu = some_losses(7), 0.3
    greatest = (losses / 7).max()
    value = jd.scalarizer("stch", mu=mu)(losses)
    assert greatest < value < greatest + mu * torch.tensor(7.0).log()


def test_the_derivatives_are_the_weights_times_a_softmax() -> None:
    losses, w = some_losses(3), torch.tensor(WEIGHTS, dtype=torch.float64)
    _, gradient = losses_and_gradient(jd.scalarizer("stch", mu=0.2, weights=WEIGHTS), losses)
    torch.testing.assert_close(gradient, w * torch.softmax(w * losses / 0.2, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_small_mu_gives_the_maximum_without_overflow(dtype: torch.dtype) -> None:
    losses = torch.tensor([1e20, -1e30, 3e30], dtype=dtype)
    value, gradient = losses_and_gradient(jd.scalarizer("stch", mu=1e-20), losses)
    torch.testing.assert_close(value, losses[2] / 3)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 0.0, 1 / 3], dtype=dtype))


def test_losses_that_are_alike_share_the_gradient() -> None:
    _, gradient = losses_and_gradient(jd.scalarizer("stch", mu=1e-3), torch.full((4,), 2.0))
    torch.testing.assert_close(gradient, torch.full((4,), 1 / 16))


def test_the_weights_may_be_assigned_between_two_calls() -> None:
    losses = some_losses(3)
    method = jd.scalarizer("stch", mu=0.5, weights=[1.0, 1.0, 1.0])
    method.weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    expected = jd.scalarizer("stch", mu=0.5, weights=WEIGHTS)(losses)
    assert torch.equal(method(losses), expected)


def test_weights_and_reference_are_no_state() -> None:
    assert jd.scalarizer("stch", mu=1, weights=WEIGHTS, reference=IDEAL).state_dict() == {}


def test_mu_is_the_authors_by_default() -> None:
    assert jd.scalarizer("stch").config.mu == 0.01


@pytest.mark.parametrize("mu", [0, -1, float("nan"), float("inf"), "smooth", None])
def test_an_impossible_mu_is_refused(mu: object) -> None:
    with pytest.raises(jd.ConfigError, match="stch: mu"):
        jd.scalarizer("stch", mu=mu)


@pytest.mark.parametrize(
    "weights", [[], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [float("inf")], "high"]
)
def test_what_is_no_preference_is_refused(weights: object) -> None:
    with pytest.raises(jd.ConfigError, match="stch: weights"):
        jd.scalarizer("stch", mu=1, weights=weights)


@pytest.mark.parametrize("setting", ["weights", "reference"])
def test_another_number_of_losses_is_refused_with_both_numbers(setting: str) -> None:
    method = jd.scalarizer("stch", mu=1, **{setting: [1.0, 2.0]})
    with pytest.raises(jd.ConfigError, match=f"{setting} has 2 values, but there are 3 objectives"):
        method(torch.ones(3))


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3)])
@pytest.mark.parametrize("mu", [0.01, 1.0])
@pytest.mark.parametrize("preferring", [True, False])
def test_torchjd_gives_the_same(shape: tuple[int, ...], mu: float, preferring: bool) -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    weights, reference = some_losses(2, *shape) if preferring else (None, None)
    weights = None if weights is None else weights.abs()
    flat = {"weights": weights, "reference": reference}
    flat = {name: None if value is None else value.flatten() for name, value in flat.items()}
    losses = 3 * some_losses(*shape)
    ours = losses_and_gradient(jd.scalarizer("stch", mu=mu, **flat), losses)
    theirs = losses_and_gradient(scalarization.STCH(mu, weights, reference), losses)
    torch.testing.assert_close(ours, theirs)
