"""A scale on the losses, as half precision needs it, changes no weight, no state and no step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

import jdframework as jd
from jdframework.testing import derived_suite

from .truth import ENGINES, assert_near, autocast, gradient, jacobian

pytestmark = pytest.mark.filterwarnings("ignore:.*differentiates one objective at a time")

SCALE = 2.0**16
HALVES = (torch.float16, torch.bfloat16)


def model_of(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 4))


def losses_of(model: nn.Module, cast: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Four tasks on one batch."""
    generator = torch.Generator().manual_seed(seed)
    with autocast(cast):
        outputs = model(torch.randn(5, 6, generator=generator))
    losses: Tensor = outputs.float().square().mean(0) + 0.1
    return losses


def settings(name: str, m: int) -> dict[str, Any]:
    found = dict(derived_suite(jd.describe(name).kinds[0], name).config)
    known = {"shape": m, "weights": [1.0 + i for i in range(m)]}
    return found | {field: value for field, value in known.items() if field in found}


def every_method() -> list[str]:
    kinds = ("weighting", "aggregator", "scalarizer")
    return sorted({name for kind in kinds for name in jd.available(kind)})


def independent_for(name: str, descent: jd.Descent, model: nn.Module) -> Any:
    if "cross-gramian" not in jd.describe(name).needs:
        return None
    batches = max(getattr(descent.method, "independent_batches", (1,)))
    found = tuple(losses_of(model, seed=7 + batch) for batch in range(batches))
    return found if batches > 1 else found[0]


def trained(
    name: str, scaler: GradScaler | None, steps: int = 6, **config: Any
) -> tuple[nn.Module, jd.Descent, list[jd.Step]]:
    """In single precision, where a scale that is a power of two changes no digit."""
    model = model_of()
    descent = jd.Descent(model, name, **config)
    parameters = [*model.parameters(), *descent.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    found = []
    for number in range(steps):
        losses = losses_of(model, seed=number)
        given = independent_for(name, descent, model)
        found.append(descent.backward(losses, independent=given, scaler=scaler))
        if scaler is None:
            optimizer.step()
        else:
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()
        descent.after_update(losses_of(model, seed=number))
    return model, descent, found


@pytest.mark.parametrize("name", every_method())
def test_a_scaler_changes_nothing_of_a_training_run_in_single_precision(name: str) -> None:
    config = settings(name, 4)
    # The scale doubles every second step: what is remembered must not be of another scale.
    scaler = GradScaler("cpu", init_scale=SCALE, growth_interval=2)
    plain, one, expected = trained(name, None, **config)
    scaled, other, found = trained(name, scaler, **config)
    assert scaler.get_scale() == SCALE * 8
    torch.testing.assert_close(scaled.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(list(other.parameters()), list(one.parameters()))
    for step, like in zip(found, expected, strict=True):
        torch.testing.assert_close(step.losses, like.losses, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(step.weights, like.weights, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(step.gramian, like.gramian, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("batch_dim", [None, 0])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("scale", [2.0**-10, 2.0**6, 2.0**12])
def test_weights_do_not_depend_on_the_scale_of_the_losses(
    engine: str, batch_dim: int | None, dtype: torch.dtype, scale: float
) -> None:
    def weights(factor: float) -> Tensor:
        model = model_of()
        descent = jd.Descent(model, "upgrad", engine=engine, batch_dim=batch_dim)
        losses = losses_of(model, dtype).reshape(2, 2) if batch_dim is None else per_instance(model)
        step = descent.backward(losses * factor)
        assert step.weights is not None
        return step.weights

    def per_instance(model: nn.Module) -> Tensor:
        with autocast(dtype):
            return model(torch.eye(5, 6)).float().square().mean(1)

    torch.testing.assert_close(weights(scale), weights(1.0), rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("features", [True, False])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", HALVES)
def test_a_loop_with_a_scaler_learns_and_its_gradients_are_those_of_the_losses(
    dtype: torch.dtype, engine: str, features: bool
) -> None:
    trunk, heads = model_of(), nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])
    both = nn.ModuleList([trunk, heads])
    descent = jd.Descent(trunk, "upgrad", engine=engine)
    optimizer = torch.optim.SGD(both.parameters(), lr=0.02)
    scaler = GradScaler("cpu", init_scale=1024.0)

    def losses(cast: torch.dtype) -> tuple[Tensor, list[Tensor]]:
        with autocast(cast):
            z = trunk(torch.eye(6))
            return z, [(head(z).float() - i - 1).square().mean() for i, head in enumerate(heads)]

    course = []
    for _ in range(8):
        z, given = losses(dtype)
        step = descent.backward(given, features=z if features else None, scaler=scaler)
        scaler.unscale_(optimizer)
        found = gradient(both)
        optimizer.zero_grad()
        z, plain = losses(torch.float32)
        jd.Descent(trunk, "upgrad", engine="autojac").backward(
            plain, features=z if features else None
        )
        assert_near(found, gradient(both), 0.1)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        course.append(float(step.losses.sum()))
    assert course[-1] < course[0]


def overflowing(model: nn.Module, cast: torch.dtype = torch.float16) -> Tensor:
    """Finite losses, whose gradients are not, times any usual scale."""
    return losses_of(model, cast) * 1e34


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip", "propagate"])
@pytest.mark.parametrize("name", ["gradvac", "db-mtl", "moco", "uw", "dwa"])
def test_an_overflow_costs_a_step_and_halves_the_scale(name: str, on_nonfinite: Any) -> None:
    model = model_of()
    descent = jd.Descent(model, name, on_nonfinite=on_nonfinite, **settings(name, 4))
    optimizer = torch.optim.SGD([*model.parameters(), *descent.parameters()], lr=0.1)
    scaler = GradScaler("cpu", init_scale=1024.0)

    def take(losses: Callable[[nn.Module, torch.dtype], Tensor]) -> jd.Step:
        step = descent.backward(losses(model, torch.float16), scaler=scaler)
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return step

    assert not take(losses_of).skipped
    state, weights = repr(descent.state_dict()), [p.clone() for p in model.parameters()]
    take(overflowing)
    assert scaler.get_scale() == 512.0
    torch.testing.assert_close(list(model.parameters()), weights)
    if jd.describe(name).kinds[0] != "scalarizer":
        assert repr(descent.state_dict()) == state
    step = take(losses_of)
    assert not step.skipped
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.parametrize("engine", ENGINES)
def test_an_overflow_is_told_as_a_skipped_step(engine: str) -> None:
    model = model_of()
    descent = jd.Descent(model, "upgrad", engine=engine)
    scaler = GradScaler("cpu", init_scale=SCALE)
    step = descent.backward(overflowing(model), scaler=scaler)
    assert step.skipped
    assert step.weights is None
    assert bool(torch.isfinite(step.losses).all())
    assert all(bool(p.grad.isnan().all()) for p in model.parameters() if p.grad is not None)


def test_a_loss_that_is_not_finite_is_no_overflow() -> None:
    model = model_of()
    scaler = GradScaler("cpu")
    losses = losses_of(model) / torch.tensor([1.0, 0.0, 1.0, 1.0])
    with pytest.raises(jd.NonFiniteError, match="step 0: the loss of objective '1' is not finite"):
        jd.Descent(model, "upgrad").backward(losses, scaler=scaler)
    assert all(p.grad is None for p in model.parameters())
    losses = losses_of(model) / torch.tensor([1.0, 0.0, 1.0, 1.0])
    step = jd.Descent(model, "upgrad", on_nonfinite="skip").backward(losses, scaler=scaler)
    assert step.skipped
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [p.clone() for p in model.parameters()]
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(list(model.parameters()), before)


def test_a_scaler_that_is_switched_off_changes_nothing() -> None:
    found = []
    for scaler in (None, GradScaler("cpu", enabled=False)):
        model = model_of()
        step = jd.Descent(model, "upgrad").backward(losses_of(model), scaler=scaler)
        found.append((step.weights, step.gramian, gradient(model)))
    torch.testing.assert_close(found[0], found[1])


def test_a_method_that_raises_under_a_scaler_does_the_next_step_as_if_it_had_not() -> None:
    model, control = model_of(), model_of()
    descent = jd.Descent(model, "gradvac")

    def fail(*_: object) -> None:
        raise ArithmeticError("no luck")

    with (
        descent.method.register_forward_hook(fail),
        pytest.raises(ArithmeticError, match="no luck"),
    ):
        descent.backward(losses_of(model), scaler=GradScaler("cpu"))
    step = descent.backward(losses_of(model))
    expected = jd.Descent(control, "gradvac").backward(losses_of(control))
    torch.testing.assert_close(step.gramian, expected.gramian)
    torch.testing.assert_close(step.weights, expected.weights)
    torch.testing.assert_close(gradient(model), gradient(control))


# A user who multiplies the losses himself, without telling Descent of the scaler.


def test_propagate_lets_the_scaler_leave_an_overflow_out() -> None:
    model = model_of()
    descent = jd.Descent(model, "gradvac", on_nonfinite="propagate")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = GradScaler("cpu", init_scale=SCALE)
    state, before = repr(descent.state_dict()), [p.clone() for p in model.parameters()]
    step = descent.backward(scaler.scale(overflowing(model)))
    assert step.weights is not None
    assert bool(step.weights.isnan().all())
    assert repr(descent.state_dict()) == state
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == SCALE / 2
    torch.testing.assert_close(list(model.parameters()), before)


def test_after_a_skipped_step_the_scale_is_lowered_by_hand() -> None:
    model = model_of()
    descent = jd.Descent(model, "upgrad", on_nonfinite="skip")
    scaler = GradScaler("cpu", init_scale=SCALE)
    step = descent.backward(scaler.scale(overflowing(model)))
    assert step.skipped
    assert all(p.grad is None for p in model.parameters())
    scaler.update(scaler.get_scale() * scaler.get_backoff_factor())
    assert scaler.get_scale() == SCALE / 2


def test_a_robust_method_is_asked_what_to_do_with_an_infinite_gradient() -> None:
    model = model_of()
    descent = jd.Descent(model, "trimmed-mean", trim_number=1, on_nonfinite="propagate")
    losses = losses_of(model) * torch.tensor([1.0, 1e38, 1.0, 1.0])
    descent.backward(losses * 1e3)
    assert bool(torch.isfinite(gradient(model)).all())


def test_an_overflow_in_the_first_step_is_no_reason_to_refuse_the_model_or_to_trust_it() -> None:
    class Mixing(nn.Module):
        """Its losses depend on other instances, too."""

        def forward(self, x: Tensor) -> Tensor:
            return x + x.roll(1, 0)

    for layer, trusted in ((nn.Identity(), True), (Mixing(), False)):
        model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), layer)
        engine = jd.engine("autogram", model, batch_dim=0)

        def run(factor: float, model: nn.Module = model) -> Tensor:
            losses: Tensor = model(torch.randn(5, 6)).square().mean(1) * 1e30
            return losses * factor

        assert not bool(torch.isfinite(engine.compute_gramian(run(1e30))).all())
        if trusted:
            losses = run(1e-30)
            rows = jacobian(losses, model)
            assert_near(engine.compute_gramian(losses), rows @ rows.T, 1e-5)
            continue
        with pytest.raises(jd.UnsupportedModelError, match="own instance"):
            engine.compute_gramian(run(1e-30))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sum_of_gradients_that_overflows_where_none_of_them_does_is_served(engine: str) -> None:
    model = model_of()
    descent = jd.Descent(model, "upgrad", engine=engine, batch_dim=0)
    with autocast(torch.float16):
        losses = model(torch.randn(64, 6)).float().square().mean(1)
    step = descent.backward(losses, scaler=GradScaler("cpu", init_scale=2.0**15))
    assert not step.skipped
    assert step.engine == engine
