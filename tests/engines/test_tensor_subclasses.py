"""Tensors of a subclass leave what plain autograd would: plain gradients, states and records."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd

from .truth import ENGINES

pytestmark = pytest.mark.filterwarnings("ignore:.*differentiates one objective at a time")


class Tagged(Tensor):
    """Wraps whatever torch's functions give in itself."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


METHODS: list[tuple[str, str, dict[str, Any]]] = [
    *(("upgrad", engine, {}) for engine in ENGINES),
    *(("moco", engine, {}) for engine in ENGINES if engine != "autogram"),
    *((name, "auto", {"shape": (5,)}) for name in ("uw", "famo", "imtl-l")),
    ("dwa", "auto", {}),
    ("mean", "auto", {}),
]


@pytest.mark.parametrize("tagged", ["losses", "data", "parameters"])
@pytest.mark.parametrize(("method", "engine", "settings"), METHODS)
def test_gradients_states_and_steps_are_of_the_type_that_autograd_gives(
    method: str, engine: str, settings: dict[str, Any], tagged: str
) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(5, 3)
    if tagged == "data":
        x = x.as_subclass(Tagged)
    elif tagged == "parameters":
        for layer in (model[0], model[2]):
            layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Tagged))
    descent = jd.Descent(model, method, engine=engine, **settings)

    def losses() -> Tensor:
        found: Tensor = model(x).square().flatten()
        return found.as_subclass(Tagged) if tagged == "losses" else found

    losses().backward(torch.ones(5))
    expected = [type(parameter.grad) for parameter in model.parameters()]
    model.zero_grad()
    for _ in range(2):
        step = descent.backward(losses())
        descent.after_update(losses())
    assert [type(parameter.grad) for parameter in model.parameters()] == expected
    kept = [*descent.method.state_dict().values(), *descent.method.buffers()]
    recorded = [each for each in (step.losses, step.weights, step.gramian) if each is not None]
    assert not any(isinstance(each, Tagged) for each in (*kept, *recorded))


def test_the_functional_interface_gives_plain_tensors_too() -> None:
    weight = torch.ones(3, requires_grad=True)
    losses = (torch.ones(2, 3) * weight).sum(1).as_subclass(Tagged)
    (jacobian,) = jd.jac(losses, weight, retain_graph=True)
    assert type(jacobian) is Tensor
    assert type(jd.backward(losses, "upgrad")) is Tensor
    assert type(weight.grad) is Tensor
