"""What torch compiles around a step, and in the model: TorchScript, and torch.compile."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd

from .truth import ENGINES

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*differentiates one objective at a time"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]


def model_of() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


X = torch.linspace(-1.0, 1.0, 15).reshape(5, 3)


@pytest.mark.filterwarnings("ignore::UserWarning")  # dynamo's own, of its graph breaks
@pytest.mark.parametrize(
    ("method", "engine"), [*(("upgrad", engine) for engine in ENGINES), ("mean", "auto")]
)
def test_a_compiled_training_step_gives_what_it_gives_uncompiled(method: str, engine: str) -> None:
    torch.compiler.reset()
    model = model_of()
    descent = jd.Descent(model, method, engine=engine)

    def step(x: Tensor) -> Tensor:
        losses = model(x).square().mean(0)
        taken = descent.backward(losses * 1.0)
        assert taken.weights is not None
        return taken.weights * 2

    expected = step(X)
    grads = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    compiled: Any = torch.compile(step, backend="aot_eager")
    with torch._functorch.config.patch(donated_buffer=False):
        found = compiled(X)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close([parameter.grad for parameter in model.parameters()], grads)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_functional_interface_may_be_compiled_around_too() -> None:
    torch.compiler.reset()
    weight = torch.ones(3, 2, requires_grad=True)

    def step(x: Tensor) -> None:
        jd.backward((x @ weight).square().mean(0), "mean", parallel_chunk_size=1)

    step(X)
    expected, weight.grad = weight.grad, None
    with torch._functorch.config.patch(donated_buffer=False):
        torch.compile(step, backend="aot_eager")(X)
    torch.testing.assert_close(weight.grad, expected)


def test_a_step_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch, jdframework as jd; model = torch.nn.Linear(3, 2);"
        "jd.Descent(model, 'upgrad', engine='autojac').backward(model(torch.ones(3)));"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("engine", ["autojac", "chunked"])
def test_a_compiled_model_whose_graph_runs_once_is_refused_with_the_line_to_write(
    engine: str,
) -> None:
    """Seen with torch 2.13, once an ordinary backward pass of the model has been compiled."""
    torch.compiler.reset()
    model = model_of()

    def losses_of(x: Tensor) -> Tensor:
        found: Tensor = model(x).tanh().square().mean(0)
        return found

    compiled: Any = torch.compile(losses_of, backend="aot_eager")
    compiled(X).sum().backward()
    model.zero_grad()
    descent = jd.Descent(model, "upgrad", engine=engine)
    with pytest.raises(
        jd.UnsupportedModelError, match=r"torch\._functorch\.config\.donated_buffer = False"
    ):
        descent.backward(compiled(X))
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.compiler.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        compiled(X).sum().backward()
        model.zero_grad()
        step = descent.backward(compiled(X))
    expected = descent.backward(losses_of(X))
    torch.testing.assert_close(step.weights, expected.weights)


@pytest.mark.parametrize("batch_dim", [None, 0])
@pytest.mark.parametrize("part", [True, False])
def test_auto_goes_on_where_torchscript_runs_a_part_of_the_model(
    part: bool, batch_dim: int | None
) -> None:
    model, control = model_of(), model_of()
    if part:
        model[2] = torch.jit.script(model[2])
    else:
        model = torch.jit.script(model)
    dim = 0 if batch_dim is None else 1
    for _ in range(3):
        step = jd.Descent(model, "upgrad", batch_dim=batch_dim).backward(
            model(X).square().mean(dim)
        )
        assert step.engine == "autojac"
        assert "torch.jit" in step.reason
        control(X).square().mean(dim).backward(step.weights)
    for mine, theirs in zip(model.parameters(), control.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("batch_dim", [None, 0])
@pytest.mark.parametrize("what", ["whole", "part", "layer", "as a part"])
def test_a_watched_model_can_be_scripted_and_is_watched_on(
    what: str, batch_dim: int | None
) -> None:
    model, control = model_of(), model_of()
    others = jd.engine("autogram", model, batch_dim=batch_dim)
    descent = jd.Descent(model, "upgrad", engine="autogram", batch_dim=batch_dim)
    hooks = [len(layer._forward_hooks) for layer in model.modules()]
    dim = 0 if batch_dim is None else 1
    for _ in range(2):
        parts = {"whole": model, "part": nn.Sequential(model[0], model[1]), "layer": model[0]}
        scripted = torch.jit.script(parts.get(what, nn.Sequential(model, nn.Tanh())))
        plain = nn.Sequential(model, nn.Tanh()) if what == "as a part" else parts[what]
        torch.testing.assert_close(scripted(X), plain(X))
        for _ in range(2):
            step = descent.backward(model(X).square().mean(dim))
            assert step.engine == "autogram"
            control(X).square().mean(dim).backward(step.weights)
    for mine, theirs in zip(model.parameters(), control.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    others.compute_gramian(model(X).square().mean(dim))
    assert [len(layer._forward_hooks) for layer in model.modules()] == hooks
    descent.close()
    others.close()
    assert not any(layer._forward_hooks for layer in model.modules())
    assert not any("__prepare_scriptable__" in vars(layer) for layer in model.modules())


def test_a_watched_model_can_be_traced() -> None:
    model = model_of()
    descent = jd.Descent(model, "upgrad", engine="autogram", batch_dim=0)
    traced = torch.jit.trace(model, X)
    torch.testing.assert_close(traced(X), model(X))
    assert descent.backward(model(X).square().mean(1)).engine == "autogram"


def test_a_copy_of_a_watched_model_can_be_scripted() -> None:
    model = model_of()
    descent = jd.Descent(model, "upgrad", engine="autogram", batch_dim=0)
    alone = copy.deepcopy(model)
    both, _ = copy.deepcopy((model, descent))
    for copied in (alone, both):
        torch.testing.assert_close(torch.jit.script(copied)(X), copied(X))
    assert all(layer._forward_hooks for layer in model.modules() if list(layer.parameters(False)))
