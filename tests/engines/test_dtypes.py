"""Every engine gives autograd's own result, whatever the parameters' dtype, under autocast too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.bases import GramianWeighting

from .truth import ENGINES, assert_near, autocast, gradient, jacobian

# That an engine falls back where vmap cannot run is told elsewhere; here the result counts.
pytestmark = pytest.mark.filterwarnings("ignore:.*differentiates one objective at a time")

TOLERANCE = {torch.bfloat16: 3e-2, torch.float16: 5e-3, torch.float32: 1e-5, torch.float64: 1e-12}
"""Of a result, relative to its largest entry: some units in the last place of each dtype."""


class InverseNorms(GramianWeighting):
    """Weights that differ between objectives, and hide no error."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.diagonal() ** -0.5


class To(nn.Module):
    """Goes on in another dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


class Frequencies(nn.Module):
    """Complex in between: the magnitudes of a real transform, filtered by a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", torch.polar(torch.ones(5), torch.arange(5.0)))

    def forward(self, x: Tensor) -> Tensor:
        return (torch.fft.rfft(x) * self.filter).abs()


def model_of(*middle: nn.Module, width: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    first, last = nn.Linear(6, 8), nn.Linear(width, 3)
    return nn.Sequential(first, nn.LayerNorm(8), nn.Tanh(), *middle, last)


def mixed() -> nn.Module:
    """One layer in bfloat16 between others in float32, and all that is not trained.

    That is an integer buffer, an integer parameter, frozen ones, and one that no loss reaches.
    """
    model = model_of(To(torch.bfloat16), nn.Linear(8, 8, dtype=torch.bfloat16), To(torch.float32))
    model.register_buffer("steps", torch.tensor(3))
    model.register_parameter("codes", nn.Parameter(torch.arange(4), requires_grad=False))
    model.register_parameter("frozen", nn.Parameter(torch.ones(2), requires_grad=False))
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    model[0].bias.requires_grad_(False)
    return model


def losses_of(
    model: nn.Module, cast: torch.dtype = torch.float32, dtype: torch.dtype = torch.float32
) -> Tensor:
    torch.manual_seed(1)
    x = torch.randn(5, 6, dtype=dtype)
    with autocast(cast):
        outputs: Tensor = model(x)
    return outputs.square().mean(1)


def check(
    engine: str,
    model: nn.Module,
    losses: Callable[[nn.Module], Tensor],
    batch_dim: int | None,
    near: float,
) -> Tensor:
    """Gramian and update are autograd's own; gives the Gramian."""
    descent = jd.Descent(model, InverseNorms(), engine=engine, batch_dim=batch_dim)
    given = losses(model)
    rows = jacobian(given, model)
    step = descent.backward(given)
    assert step.gramian is not None
    assert step.weights is not None
    assert_near(step.gramian, rows @ rows.T, near)
    assert_near(gradient(model), step.weights.double() @ rows, near)
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.dtype == parameter.dtype
    return step.gramian


@pytest.mark.parametrize("batch_dim", [None, 0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("engine", ENGINES)
def test_autocast(engine: str, dtype: torch.dtype, batch_dim: int | None) -> None:
    model = model_of(nn.Linear(8, 8), nn.GroupNorm(2, 8), nn.ReLU())
    losses = partial(losses_of, cast=dtype)
    gramian = check(engine, model, lambda m: losses(m).float(), batch_dim, TOLERANCE[dtype])
    assert gramian.dtype == torch.float32


@pytest.mark.parametrize("batch_dim", [None, 0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_in_one_dtype(engine: str, dtype: torch.dtype, batch_dim: int | None) -> None:
    model = model_of().to(dtype)
    gramian = check(engine, model, partial(losses_of, dtype=dtype), batch_dim, TOLERANCE[dtype])
    # A Gramian is small enough for single precision.
    assert gramian.dtype == (torch.float32 if dtype.itemsize == 2 else dtype)


@pytest.mark.parametrize("batch_dim", [None, 0])
@pytest.mark.parametrize("engine", ENGINES)
def test_layers_of_several_dtypes_beside_what_is_not_trained(
    engine: str, batch_dim: int | None
) -> None:
    model = mixed()
    check(engine, model, losses_of, batch_dim, TOLERANCE[torch.bfloat16])
    assert all(model.get_parameter(name).grad is None for name in ("codes", "frozen", "0.bias"))
    assert int(model.get_buffer("steps")) == 3


@pytest.mark.parametrize("batch_dim", [None, 0])
@pytest.mark.parametrize("engine", ENGINES)
def test_complex_numbers_between_real_parameters(engine: str, batch_dim: int | None) -> None:
    model = model_of(Frequencies(), width=5)
    check(engine, model, losses_of, batch_dim, TOLERANCE[torch.float32])


class Spectral(nn.Module):
    """A layer whose weight is complex, or the same as pairs of real numbers."""

    def __init__(self, *, pairs: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(3, 4, dtype=torch.complex128, generator=generator)
        self.weight = nn.Parameter(torch.view_as_real(weight).clone() if pairs else weight)
        self.bias = nn.Parameter(torch.ones(4, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        weight = weight if weight.is_complex() else torch.view_as_complex(weight)
        return (x.to(weight.dtype) @ weight).abs().square() + self.bias * x.sum(1, keepdim=True)


COMPLEX_ENGINES: dict[str, Any] = {
    "autojac": "autojac",
    "vmap": {"name": "autojac", "parallel_chunk_size": 4},
    "chunked": "chunked",
    "recomputed": {"name": "chunked", "memory": "1KB", "offload": None},
    "on disk": {"name": "chunked", "memory": "1KB", "offload": "disk"},
    "auto": "auto",
}


@pytest.mark.parametrize("method", ["upgrad", "graddrop", "config", "moco", "modo", "mean"])
@pytest.mark.parametrize("engine", COMPLEX_ENGINES)
def test_complex_parameters_are_trained_as_pairs_of_real_ones(engine: str, method: str) -> None:
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = []
    for pairs in (False, True):
        torch.manual_seed(1)
        model = Spectral(pairs=pairs)
        descent = jd.Descent(model, method, engine=COMPLEX_ENGINES[engine])
        other = {"independent": model(2 * x).mean(0)} if method == "modo" else {}
        for _ in range(2):
            step = descent.backward(model(x).mean(0), **other)
            other = {"independent": model(2 * x).mean(0)} if method == "modo" else {}
        found.append((step, model))
    (step, model), (expected, control) = found
    assert model.weight.grad is not None
    assert model.weight.grad.dtype == torch.complex128
    torch.testing.assert_close(torch.view_as_real(model.weight.grad), control.weight.grad)
    torch.testing.assert_close(model.bias.grad, control.bias.grad)
    torch.testing.assert_close(step.weights, expected.weights)
    torch.testing.assert_close(step.gramian, expected.gramian)


def test_an_engine_verifies_the_gramian_of_complex_parameters() -> None:
    losses = Spectral(pairs=False)(torch.ones(2, 3)).sum(0)
    model = Spectral(pairs=False)
    losses = model(torch.ones(2, 3, dtype=torch.float64)).sum(0)
    assert jd.engine("autojac", model).verify(losses) < 1e-12


def test_an_engine_without_rows_refuses_complex_parameters_unless_they_are_frozen() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, dtype=torch.complex64))
    with pytest.raises(jd.UnsupportedModelError, match=r"'1\.weight' is complex: use engine='auto"):
        jd.Descent(model, "upgrad", engine="autogram")
    model[1].requires_grad_(False)

    def losses(_: nn.Module) -> Tensor:
        return model[1](model[0](torch.rand(5, 4)).to(torch.complex64)).abs().square().sum(1)

    check("autogram", model, losses, None, TOLERANCE[torch.float32])


def test_the_functional_interface_serves_complex_tensors_too() -> None:
    weight = torch.randn(3, 4, dtype=torch.complex64, requires_grad=True)
    pairs = torch.view_as_real(weight.detach()).clone().requires_grad_()
    jd.backward(weight.abs().square().sum(1), "upgrad")
    jd.backward(pairs.square().sum((1, 2)), "upgrad")
    assert weight.grad is not None
    torch.testing.assert_close(torch.view_as_real(weight.grad), pairs.grad)
    assert jd.jac(weight.abs().square().sum(1), [weight])[0].shape == (3, 3, 4)
    jd.backward(weight.abs().square().sum(1))
    weight.grad = None
    jd.jac_to_grad([weight], "upgrad")
    torch.testing.assert_close(torch.view_as_real(weight.grad), pairs.grad)


@pytest.mark.parametrize("name", ["upgrad", "mean"])
def test_complex_losses_are_refused(name: str) -> None:
    model = nn.Linear(2, 2)
    losses = {"real": model(torch.ones(2)).sum(), "phase": model(torch.ones(2)).sum() * 1j}
    with pytest.raises(ValueError, match=r"losses\['phase'\] is complex, which has no minimum"):
        jd.Descent(model, name).backward(losses)
