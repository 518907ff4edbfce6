"""Hooks on parameters see the update, once a step, as in ``losses.backward(weights)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd

from .truth import ENGINES

pytestmark = pytest.mark.filterwarnings("ignore:.*differentiates one objective at a time")

METHODS = [("upgrad", engine) for engine in ENGINES] + [("mean", "auto")]


def model_of() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def losses_of(model: nn.Module, rows: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 4, dtype=torch.float64, generator=generator)
    found: Tensor = model(x).square().mean(1)
    return found


def grads(model: nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in model.parameters()]


def clip(gradient: Tensor) -> Tensor:
    return gradient.clamp(-1e-2, 1e-2)


@pytest.mark.parametrize("batch_dim", [None, 0])
@pytest.mark.parametrize(("method", "engine"), METHODS)
def test_a_hook_sees_and_replaces_the_update_as_in_the_weighted_backward(
    method: str, engine: str, batch_dim: int | None
) -> None:
    model, control = model_of(), model_of()
    seen: dict[int, list[Tensor]] = {}
    for position, each in enumerate((model, control)):
        heard = seen.setdefault(position, [])
        each[0].weight.register_hook(heard.append)
        each[0].weight.register_hook(clip)
        each[2].bias.register_hook(lambda gradient, heard=heard: heard.append(gradient))
    descent = jd.Descent(model, method, engine=engine, batch_dim=batch_dim)
    for _ in range(2):  # the second adds to .grad
        step = descent.backward(losses_of(model))
        assert step.weights is not None
        losses_of(control).backward(step.weights)
    assert len(seen[0]) == 4
    key = lambda tensor: tensor.numel()  # noqa: E731  # autograd's order is that of the graph
    torch.testing.assert_close(sorted(seen[0], key=key), sorted(seen[1], key=key))
    torch.testing.assert_close(grads(model), grads(control))


@pytest.mark.parametrize(("method", "engine"), METHODS)
def test_the_optimizer_may_run_in_the_backward_pass(method: str, engine: str) -> None:
    model, control = model_of(), model_of()
    calls: list[Tensor] = []

    def update(parameter: Tensor) -> None:
        assert not torch.is_grad_enabled()
        calls.append(parameter)
        parameter -= 0.1 * parameter.grad
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(update)
    descent = jd.Descent(model, method, engine=engine)
    optimizer = torch.optim.SGD(control.parameters(), lr=0.1)
    for _ in range(3):
        step = descent.backward(losses_of(model))
        losses_of(control).backward(step.weights)
        optimizer.step()
        optimizer.zero_grad()
    assert len(calls) == 3 * 4
    assert grads(model) == [None] * 4
    torch.testing.assert_close([*model.parameters()], [*control.parameters()])


@pytest.mark.parametrize("engine", ENGINES)
def test_heads_have_their_hooks_run_too(engine: str) -> None:
    trunk, heads = nn.Linear(4, 3), nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)])
    seen: list[tuple[int, ...]] = []
    for parameter in (*trunk.parameters(), *heads.parameters()):
        parameter.register_post_accumulate_grad_hook(lambda p: seen.append(tuple(p.shape)))
    features = trunk(torch.randn(5, 4))
    losses = [head(features).square().mean() for head in heads]
    jd.Descent(trunk, "upgrad", engine=engine).backward(losses, features=features)
    assert sorted(seen) == sorted([(3, 4), (3,), (1, 3), (1, 3), (1,), (1,)])


@pytest.mark.parametrize("engine", ENGINES)
def test_hooks_of_several_parameters_together_run_once(engine: str) -> None:
    model = model_of()
    seen: list[int] = []
    handle = torch.autograd.graph.register_multi_grad_hook(
        tuple(model.parameters()), lambda gradients: seen.append(len(gradients))
    )
    descent = jd.Descent(model, "upgrad", engine=engine)
    for _ in range(2):
        descent.backward(losses_of(model))
    assert seen == [4, 4]
    handle.remove()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("where", ["first", "last"])
def test_a_hook_that_raises_leaves_grad_as_it_was(engine: str, where: str) -> None:
    def fail(_: Tensor) -> None:
        raise ArithmeticError("not with me")

    model = model_of()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    parameters = [*model.parameters()]
    handle = parameters[0 if where == "first" else -1].register_hook(fail)
    descent = jd.Descent(model, "upgrad", engine=engine)
    with pytest.raises(ArithmeticError, match="not with me"):
        descent.backward(losses_of(model))
    assert all(bool((p.grad == 1).all()) for p in parameters)
    handle.remove()
    descent.backward(losses_of(model))
    assert not any(bool((p.grad == 1).all()) for p in parameters)


def test_a_hook_that_waits_and_raises_ends_those_after_it_as_in_autograd() -> None:
    model, ran = nn.Linear(4, 3), []

    def fail(_: Tensor) -> None:
        raise ArithmeticError("not with me")

    model.weight.register_post_accumulate_grad_hook(lambda p: ran.append("weight"))
    model.bias.register_post_accumulate_grad_hook(fail)
    with pytest.raises(ArithmeticError, match="not with me"):
        jd.Descent(model, "upgrad", engine="autojac").backward(model(torch.ones(2, 4)).sum(1))
    assert ran == ["weight"]


@pytest.mark.parametrize("present", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize("where", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize(("method", "engine"), METHODS)
def test_a_hook_that_waits_and_raises_leaves_every_grad_as_it_was(
    method: str, engine: str, where: int, present: bool
) -> None:
    def fail(_: Tensor) -> None:
        raise ArithmeticError("not with me")

    model = model_of()
    parameters = [*model.parameters()]
    before = [torch.ones_like(p) if present else None for p in parameters]
    for parameter, grad in zip(parameters, before, strict=True):
        parameter.grad = grad
    handle = parameters[where].register_post_accumulate_grad_hook(fail)
    descent = jd.Descent(model, method, engine=engine)
    with pytest.raises(ArithmeticError, match="not with me"):
        descent.backward(losses_of(model))
    assert all(p.grad is grad for p, grad in zip(parameters, before, strict=True))
    assert all(bool((grad == 1).all()) for grad in before if grad is not None)
    handle.remove()
    descent.backward(losses_of(model))
    assert all(p.grad is not None and not bool((p.grad == 1).all()) for p in parameters)


@pytest.mark.parametrize("engine", ENGINES)
def test_hooks_run_once_under_a_scaler_and_see_the_scaled_update(engine: str) -> None:
    model, seen = model_of(), []
    model[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    step = jd.Descent(model, "upgrad", engine=engine).backward(losses_of(model), scaler=scaler)
    (expected,) = torch.autograd.grad(losses_of(model), model[0].weight, 8.0 * step.weights)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], expected)


FUNCTIONAL: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "backward": lambda losses, _: jd.backward(losses, "mean"),
    "mtl_backward": lambda losses, x: jd.mtl_backward([*losses], x, "mean"),
}


@pytest.mark.parametrize("name", [*FUNCTIONAL, "jac_to_grad"])
def test_the_functional_interface_runs_them_once(name: str) -> None:
    weight = torch.ones(3, 2, requires_grad=True)
    seen: list[Tensor] = []
    weight.register_hook(seen.append)
    weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad))
    hidden = torch.ones(4, 3) @ weight
    losses = hidden.square().sum(1)
    if name == "jac_to_grad":
        jd.backward(losses)
        assert not seen
        jd.jac_to_grad([weight], "mean")
    else:
        FUNCTIONAL[name](losses, hidden)
    assert len(seen) == 2
    torch.testing.assert_close(seen[0], seen[1])
