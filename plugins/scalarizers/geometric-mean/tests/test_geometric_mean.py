"""The geometric mean."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import ScalarizerSuite


class TestGeometricMean(ScalarizerSuite):
    spec: ClassVar[str] = "geometric-mean"


def gradient_at(losses: Tensor) -> Tensor:
    leaf = losses.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(jd.scalarizer("geometric-mean")(leaf), leaf)
    return gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [1, 2, 3, 40])
def test_a_zero_loss_has_finite_derivatives(m: int, dtype: torch.dtype) -> None:
    losses = torch.ones(m, dtype=dtype)
    losses[0] = 0
    gradient = gradient_at(losses)
    assert torch.isfinite(gradient).all()
    assert (gradient >= 0).all()
    assert gradient[0] > 0


@pytest.mark.parametrize(("m", "others"), [(20, 1e4), (512, 1e6), (4, 1e30)])
def test_a_zero_loss_beside_many_large_ones_has_finite_derivatives(m: int, others: float) -> None:
    losses = torch.full((m,), others)
    losses[0] = 0
    gradient = gradient_at(losses)
    assert torch.isfinite(gradient).all()
    assert gradient.argmax() == 0


def test_a_zero_loss_stops_no_training() -> None:
    model = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    losses = model(torch.ones(4, 2)).square().mean(0)
    assert losses[0] == 0
    step = jd.Descent(model, "geometric-mean").backward(losses)
    assert not step.skipped
    assert torch.isfinite(model.weight.grad).all()


def test_losses_that_are_all_zero_are_weighed_alike() -> None:
    torch.testing.assert_close(gradient_at(torch.zeros(4)), torch.full((4,), 0.25))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_small_losses_do_not_underflow(dtype: torch.dtype) -> None:
    losses = torch.full((400,), 1e-2, dtype=dtype)
    assert jd.scalarizer("geometric-mean")(losses).item() == pytest.approx(1e-2, rel=1e-5)
    torch.testing.assert_close(gradient_at(losses), torch.full_like(losses, 1 / 400))


def test_many_large_losses_do_not_overflow() -> None:
    losses = torch.full((400,), 1e6)
    assert jd.scalarizer("geometric-mean")(losses).item() == pytest.approx(1e6, rel=1e-5)


def test_losses_of_any_scale_get_the_exact_value() -> None:
    losses = torch.tensor([1e-24, 1e-6, 1.0, 1e6], dtype=torch.float64)
    assert jd.scalarizer("geometric-mean")(losses).item() == pytest.approx(1e-6, rel=1e-13)


def test_the_weights_are_the_mean_over_m_times_the_loss() -> None:
    model = torch.nn.Linear(2, 3)
    losses = model(torch.ones(1, 2)).square().flatten() + 0.1
    step = jd.Descent(model, "geometric-mean").backward(losses)
    mean = losses.detach().prod() ** (1 / 3)
    torch.testing.assert_close(step.weights, mean / (3 * losses.detach()))


def test_the_scale_of_one_loss_does_not_change_the_direction() -> None:
    losses = torch.tensor([0.3, 5.0, 2.0], dtype=torch.float64)
    scales = torch.tensor([1.0, 1000.0, 0.01], dtype=torch.float64)
    pulls, scaled = gradient_at(losses) * losses, gradient_at(scales * losses) * scales * losses
    torch.testing.assert_close(pulls / pulls.norm(), scaled / scaled.norm())


def test_a_negative_loss_is_refused_with_its_value() -> None:
    with pytest.raises(ValueError, match=r"losses of at least zero, but one is -0\.5"):
        jd.scalarizer("geometric-mean")(torch.tensor([1.0, -0.5]))


@pytest.mark.parametrize("name", ["gls", "GLS", "geometric_mean", "GeometricMean"])
def test_it_is_found_by_its_other_names(name: str) -> None:
    assert jd.scalarizer(name).name == "geometric-mean"


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3)])
def test_torchjd_gives_the_same(shape: tuple[int, ...]) -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    losses = 0.01 + torch.rand(shape, generator=torch.Generator().manual_seed(0)).double()
    leaf = losses.clone().requires_grad_()
    value = scalarization.GeometricMean()(leaf)
    torch.testing.assert_close(jd.scalarizer("geometric-mean")(losses), value.detach())
    torch.testing.assert_close(gradient_at(losses), *torch.autograd.grad(value, leaf))


def test_torchjd_gives_nan_for_a_zero_loss_where_this_does_not() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    leaf = torch.tensor([0.0, 1.0], requires_grad=True)
    (theirs,) = torch.autograd.grad(scalarization.GeometricMean()(leaf), leaf)
    assert theirs.isnan().any()
    assert torch.isfinite(gradient_at(leaf.detach())).all()
