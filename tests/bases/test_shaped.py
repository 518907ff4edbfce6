"""Values of the losses' shape, which the first losses tell."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd

LAZY: Final = ("uw", "imtl-l", "imtl", "famo")
TRAINED: Final = ("uw", "imtl-l", "imtl")
OPTIMIZERS: Final[dict[str, Callable[[Any], torch.optim.Optimizer]]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD, momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "SGD, foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "SGD, fused": lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "Adam, amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "Adam, foreach": lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
    "Adam, fused": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.1),
}
SHAPES: Final = ((), (2,), (2, 2))


def made(name: str, **config: Any) -> tuple[nn.Linear, jd.Descent]:
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    return model, jd.Descent(model, name, **config)


def losses(model: nn.Module, shape: tuple[int, ...] = (4,)) -> Tensor:
    values: Tensor = (model(torch.ones(5, 3)) - 1).square().mean(0) + 0.1
    return values[: max(1, torch.Size(shape).numel())].reshape(shape)


def stepped(
    model: nn.Module, descent: jd.Descent, optimizer: torch.optim.Optimizer, steps: int = 3
) -> list[Tensor]:
    for _ in range(steps):
        optimizer.zero_grad()
        descent.backward(losses(model))
        nn.utils.clip_grad_norm_([*descent.parameters()], 10.0)
        optimizer.step()
        descent.after_update(losses(model).detach())
    return [*(p.detach().clone() for p in model.parameters()), *descent.state_dict().values()]


def both(model: nn.Module, descent: jd.Descent) -> list[nn.Parameter]:
    return [*model.parameters(), *descent.parameters()]


def through_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", LAZY)
def test_an_optimizer_made_before_the_first_step_trains_as_with_the_shape_given(
    name: str, optimizer: str
) -> None:
    model, descent = made(name)
    lazy = OPTIMIZERS[optimizer](both(model, descent))
    lazy.zero_grad()
    lazy.zero_grad(set_to_none=False)
    nn.utils.clip_grad_norm_(both(model, descent), 1.0)
    lazy.step()
    found = stepped(model, descent, lazy)
    model, descent = made(name, shape=4)
    expected = stepped(model, descent, OPTIMIZERS[optimizer](both(model, descent)))
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", TRAINED)
def test_the_parameter_stays_the_same_object(name: str) -> None:
    model, descent = made(name)
    (before,) = descent.parameters()
    assert sum(p.numel() for p in descent.parameters()) == 0
    descent.backward(losses(model))
    (after,) = descent.parameters()
    assert after is before
    assert after.shape == (4,)
    assert after.grad is not None
    assert after.grad.shape == (4,)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["uw", "imtl-l", "famo"])
def test_the_first_losses_tell_the_shape(name: str, shape: tuple[int, ...]) -> None:
    model, _ = made(name)
    lazy, given = jd.scalarizer(name), jd.scalarizer(name, shape=shape)
    of_losses = losses(model, shape)
    assert torch.equal(lazy(of_losses), given(of_losses))
    for key, value in given.state_dict().items():
        assert torch.equal(lazy.state_dict()[key], value) or value.isnan().all()
    with pytest.raises(ValueError, match=r"was first given losses of shape .* shape \[7\]"):
        lazy(torch.ones(7))


@pytest.mark.parametrize("name", LAZY)
@pytest.mark.parametrize("used", [False, True])
def test_a_state_goes_through_a_file_into_a_fresh_instance(name: str, used: bool) -> None:
    model, descent = made(name)
    optimizer = torch.optim.Adam(both(model, descent), lr=0.1)
    if used:
        stepped(model, descent, optimizer)
    saved = through_file([model.state_dict(), descent.state_dict(), optimizer.state_dict()])
    resumed_model, resumed = made(name)
    resumed_optimizer = torch.optim.Adam(both(resumed_model, resumed), lr=0.1)
    resumed_model.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    resumed_optimizer.load_state_dict(saved[2])
    found = stepped(resumed_model, resumed, resumed_optimizer)
    torch.testing.assert_close(
        found, stepped(model, descent, optimizer), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("name", LAZY)
@pytest.mark.parametrize("assign", [False, True])
def test_the_state_before_the_first_step_makes_a_used_instance_fresh(
    name: str, assign: bool
) -> None:
    model, descent = made(name)
    fresh = copy.deepcopy(descent.state_dict())
    descent.backward(losses(model))
    model.zero_grad()
    descent.load_state_dict(fresh, assign=assign)
    for value in (descent.state_dict()[key] for key in descent.method.per_loss):
        assert value.numel() == 0
    for parameter in descent.parameters():
        assert parameter.grad is None
    descent.backward(losses(model, (2,)))


def test_a_state_of_another_shape_than_the_setting_is_refused() -> None:
    model, used = made("uw")
    used.backward(losses(model))
    with pytest.raises(RuntimeError, match="size mismatch for s"):
        jd.Descent(model, "uw", shape=3).load_state_dict(used.state_dict())


@pytest.mark.parametrize("name", LAZY)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])  # noqa: S301
@pytest.mark.parametrize("steps", [0, 2])
def test_copies_go_on_alike(name: str, copied: Any, steps: int) -> None:
    model, descent = made(name)
    stepped(model, descent, torch.optim.SGD(both(model, descent), lr=0.1), steps)
    twin_model = copied(model)
    twin = jd.Descent(twin_model, copied(descent.method))
    found = stepped(twin_model, twin, torch.optim.SGD(both(twin_model, twin), lr=0.1))
    expected = stepped(model, descent, torch.optim.SGD(both(model, descent), lr=0.1))
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", TRAINED)
def test_a_dtype_set_before_the_first_step_is_kept(name: str) -> None:
    model, descent = made(name)
    descent.method.double()
    model.double()
    descent.backward((model(torch.ones(5, 3).double()) - 1).square().mean(0))
    (parameter,) = descent.parameters()
    assert parameter.dtype == torch.float64
    assert parameter.shape == (4,)


@pytest.mark.parametrize("name", LAZY)
def test_a_first_step_that_fails_tells_no_shape(name: str) -> None:
    model, descent = made(name)
    expected = made(name)[1]
    for wrong in (losses(model) / 0.0, (0.0 * losses(model)).sqrt()):  # itself, or its gradient
        with pytest.raises(jd.NonFiniteError):
            descent.backward(wrong)
    for parameter in descent.parameters():
        assert parameter.grad is None
    for key, value in descent.state_dict().items():
        assert value.shape == expected.state_dict()[key].shape
    descent.backward(losses(model, (2,)))


@pytest.mark.parametrize("name", ["uw", "imtl-l"])
def test_losses_that_are_refused_tell_no_shape(name: str) -> None:
    method = jd.scalarizer(name)
    with pytest.raises(ValueError, match="at least one loss"):
        method(torch.ones(0, 3))
    with pytest.raises(ValueError, match="float"):
        method(torch.ones(3, dtype=torch.int64))
    assert method(torch.ones(2)).isfinite()


@pytest.mark.parametrize("name", LAZY)
def test_reset_begins_anew_and_the_shape_stays(name: str) -> None:
    model, descent = made(name)
    optimizer = torch.optim.Adam(both(model, descent), lr=0.1)
    stepped(model, descent, optimizer)
    identities = [id(parameter) for parameter in descent.parameters()]
    descent.reset()
    assert [id(parameter) for parameter in descent.parameters()] == identities
    for parameter in descent.parameters():
        assert parameter.shape == (4,)
        assert not parameter.any()
    stepped(model, descent, optimizer)


def test_bounds_that_do_not_fit_the_first_losses_are_refused_each_time() -> None:
    famo = jd.scalarizer("famo", min_losses=[0.0, 0.0, 0.0])
    for _ in range(2):
        with pytest.raises(jd.ConfigError, match=r"min_losses has the shape \[3\].*shape \[2\]"):
            famo(torch.ones(2))
    assert famo(torch.ones(3)).isfinite()
