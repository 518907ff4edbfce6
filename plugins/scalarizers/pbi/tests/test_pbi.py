"""The penalty-based boundary intersection."""

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


class TestPBI(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "pbi", "theta": 5.0, "weights": WEIGHTS}
    shapes = ((3,), (3, 1))
    permutation_invariant = False


class TestPBIWithAReference(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {
        "name": "pbi",
        "theta": 1.0,
        "weights": WEIGHTS,
        "reference": IDEAL,
    }
    shapes = ((3,), (1, 3))
    permutation_invariant = False


class TestPBIOfOneLoss(ScalarizerSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "pbi", "theta": 5.0, "weights": [0.7]}
    shapes = ((), (1,))


def value_and_gradient(method: Any, losses: Tensor) -> tuple[Tensor, Tensor]:
    leaf = losses.clone().requires_grad_()
    value = method(leaf)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def some_losses(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def unit(weights: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    direction = torch.as_tensor(weights, dtype=dtype)
    return direction / direction.norm()


def test_the_two_distances_are_those_of_pythagoras() -> None:
    losses = some_losses(3)
    along = jd.scalarizer("pbi", theta=0, weights=WEIGHTS)(losses)
    perpendicular = jd.scalarizer("pbi", theta=1, weights=WEIGHTS)(losses) - along
    torch.testing.assert_close(along, losses @ unit(WEIGHTS))
    torch.testing.assert_close(along**2 + perpendicular**2, losses @ losses)


def test_the_reference_is_the_origin_of_both_distances() -> None:
    losses, ideal = some_losses(3), torch.tensor(IDEAL, dtype=torch.float64)
    shifted = jd.scalarizer("pbi", theta=5, weights=WEIGHTS)(losses - ideal)
    found = jd.scalarizer("pbi", theta=5, weights=WEIGHTS, reference=IDEAL)(losses)
    torch.testing.assert_close(found, shifted)


def test_the_length_of_the_weights_does_not_matter() -> None:
    losses = some_losses(3)
    longer = [1e6 * weight for weight in WEIGHTS]
    torch.testing.assert_close(
        jd.scalarizer("pbi", theta=5, weights=longer)(losses),
        jd.scalarizer("pbi", theta=5, weights=WEIGHTS)(losses),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [1, 2, 3, 10, 50])
def test_on_the_direction_the_gradient_is_the_direction(m: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(m)
    for scale in (1e-6, 1.0, 7.3, 1e6):
        weights = torch.rand(m, generator=generator)
        losses = scale * weights.to(dtype)
        method = jd.scalarizer("pbi", theta=5, weights=weights)
        value, gradient = value_and_gradient(method, losses)
        torch.testing.assert_close(gradient, unit(weights, dtype))
        torch.testing.assert_close(value, losses.norm())


def test_at_the_reference_the_gradient_is_the_direction() -> None:
    method = jd.scalarizer("pbi", theta=5, weights=WEIGHTS, reference=IDEAL)
    value, gradient = value_and_gradient(method, torch.tensor(IDEAL, dtype=torch.float64))
    assert value == 0
    torch.testing.assert_close(gradient, unit(WEIGHTS))


def test_a_small_step_aside_is_no_rounding_error() -> None:
    losses = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)
    value, gradient = value_and_gradient(jd.scalarizer("pbi", theta=5, weights=[1, 1]), losses)
    expected = unit([1, 1]) + 5 * unit([-1, 1])
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=0)
    assert (value - losses.sum() / 2**0.5).item() == pytest.approx(5e-12 / 2**0.5, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6])
def test_losses_of_any_scale_get_the_same_gradient(scale: float) -> None:
    method, losses = jd.scalarizer("pbi", theta=5, weights=WEIGHTS), some_losses(3)
    value, gradient = value_and_gradient(method, losses)
    scaled, same = value_and_gradient(method, scale * losses)
    torch.testing.assert_close(same, gradient)
    torch.testing.assert_close(scaled, scale * value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e20, 1e30])
def test_losses_and_weights_beyond_the_root_of_float32s_range_keep_their_penalty(
    scale: float,
) -> None:
    losses = torch.tensor([1.0, 2.0, 0.5])
    method = jd.scalarizer("pbi", theta=5, weights=WEIGHTS)
    value, gradient = value_and_gradient(method, losses)
    scaled, same = value_and_gradient(method, scale * losses)
    torch.testing.assert_close(same, gradient)
    torch.testing.assert_close(scaled / scale, value)
    method.weights = scale * method.weights
    torch.testing.assert_close(value_and_gradient(method, losses), (value, gradient))


def test_the_weights_may_be_assigned_between_two_calls() -> None:
    losses = some_losses(3)
    method = jd.scalarizer("pbi", theta=5, weights=[1.0, 1.0, 1.0])
    method.weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    assert torch.equal(method(losses), jd.scalarizer("pbi", theta=5, weights=WEIGHTS)(losses))


def test_descent_trains_towards_the_direction() -> None:
    losses = torch.nn.ParameterList([torch.tensor([3.0, 1.0])])
    descent = jd.Descent(losses, "pbi", theta=5.0, weights=[1.0, 3.0])
    optimizer = torch.optim.SGD(losses.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        descent.backward(losses[0] * 1.0)
        optimizer.step()
    first, second = losses[0].tolist()
    assert second / first == pytest.approx(3.0, abs=0.3)


def test_the_papers_penalty_and_no_preference_are_the_defaults() -> None:
    losses = torch.tensor([1.0, 2.0, 4.0])
    equal = jd.scalarizer("pbi", theta=5, weights=[1.0, 1.0, 1.0])(losses)
    torch.testing.assert_close(jd.scalarizer("pbi")(losses), equal)


@pytest.mark.parametrize("theta", [-1, float("nan"), float("inf"), "large", None])
def test_an_impossible_theta_is_refused(theta: object) -> None:
    with pytest.raises(jd.ConfigError, match="pbi: theta"):
        jd.scalarizer("pbi", theta=theta, weights=WEIGHTS)


@pytest.mark.parametrize(
    "weights", [[], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [float("inf")], "high"]
)
def test_what_is_no_direction_is_refused(weights: object) -> None:
    with pytest.raises(jd.ConfigError, match="pbi: weights"):
        jd.scalarizer("pbi", theta=5, weights=weights)


@pytest.mark.parametrize("setting", ["weights", "reference"])
def test_another_number_of_losses_is_refused_with_both_numbers(setting: str) -> None:
    settings = {"weights": [1.0, 1.0, 1.0], setting: [1.0, 2.0]}
    with pytest.raises(jd.ConfigError, match=f"{setting} has 2 values, but there are 3 objectives"):
        jd.scalarizer("pbi", theta=5, **settings)(torch.ones(3))


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3)])
@pytest.mark.parametrize("theta", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("referring", [True, False])
def test_torchjd_gives_the_same(shape: tuple[int, ...], theta: float, referring: bool) -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    weights = some_losses(*shape).abs()
    reference = some_losses(2, *shape)[1] if referring else None
    settings = {"weights": weights.flatten()}
    if reference is not None:
        settings["reference"] = reference.flatten()
    losses = 3 * some_losses(3, *shape)[2]
    ours = value_and_gradient(jd.scalarizer("pbi", theta=theta, **settings), losses)
    theirs = value_and_gradient(scalarization.PBI(theta, weights, reference), losses)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_torchjd_drowns_small_losses_where_this_does_not() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    weights, losses = torch.tensor([1.0, 1.0]).double(), torch.tensor([1e-8, 0.0]).double()
    right = losses.sum() / 2**0.5 * (1 + 5)
    ours = jd.scalarizer("pbi", theta=5, weights=weights)(losses)
    theirs = scalarization.PBI(5.0, weights)(losses)
    torch.testing.assert_close(ours, right, rtol=1e-12, atol=0)
    assert theirs > 50 * right
