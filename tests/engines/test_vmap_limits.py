"""Where ``torch.vmap`` cannot run, an engine goes on without it: exact, and told once with why."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import jdframework as jd

from .truth import ENGINES, assert_near, autocast, gradient, jacobian

pytestmark = pytest.mark.filterwarnings(
    "ignore:There is a performance drop because we have not yet implemented:UserWarning"
)

AT_ONCE = 3
"""So many of the five objectives: the last chunk is smaller than the first."""


class Sine(torch.autograd.Function):
    """Without a rule for vmap, in the older style."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return given[0] * x.cos()


class Clipped(torch.autograd.Function):
    """What its backward pass does depends on the gradient's values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Tensor:
        return given[0] if float(given[0].norm()) > 0.01 else 2 * given[0]


class Buffered(torch.autograd.Function):
    """Its backward pass writes into memory of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 3.0

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Tensor:
        found = torch.zeros(given[0].shape)
        found += given[0]
        return 3.0 * found


class NumpyBackward(torch.autograd.Function):
    """Leaves torch and comes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(3.0 * x.detach().numpy())

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Tensor:
        return torch.from_numpy(3.0 * given[0].numpy())


class Applied(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Checkpointed(nn.Module):
    """Draws its random numbers again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = checkpoint(self.inner, x, use_reentrant=False)
        return output


class LastStep(nn.Module):
    """A recurrent layer over three steps, read out at the last one."""

    def __init__(self, cell: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell = cell(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.cell(x.unsqueeze(1).expand(-1, 3, -1).tanh())[0][:, -1]
        return output


def hooked(x: Tensor) -> Tensor:
    x.register_hook(lambda given: 2 * given if given.norm().item() > 0 else given)
    return x


def retaining(x: Tensor) -> Tensor:
    x.retain_grad()
    return x


MIDDLES: dict[str, tuple[Callable[[], nn.Module], str | None]] = {
    "retained gradient": (lambda: Applied(retaining), "a tensor on the way retains its gradient"),
    "norm layer": (lambda: nn.LayerNorm(8), None),
    "function without a rule": (lambda: Applied(Sine.apply), None),
    "control flow in backward": (lambda: Applied(Clipped.apply), r"calling \.item\(\)"),
    "memory of its own in backward": (lambda: Applied(Buffered.apply), "broadcast shape"),
    "numpy in backward": (lambda: Applied(NumpyBackward.apply), "data pointer"),
    "hook with control flow": (lambda: Applied(hooked), r"calling \.item\(\)"),
    "random numbers in backward": (Checkpointed, "random operation"),
    "RNN": (lambda: LastStep(nn.RNN), None),
    "LSTM": (lambda: LastStep(nn.LSTM), None),
    "GRU": (lambda: LastStep(nn.GRU), None),
}
"""What is between two layers, and what vmap says of it; None if it can run."""


def engine_of(name: str, model: nn.Module, batch_dim: int | None = None) -> Any:
    at_once = {} if name == "autogram" else {"parallel_chunk_size": AT_ONCE}
    return jd.engine(name, model, batch_dim=batch_dim, **at_once)


@pytest.fixture
def told() -> Iterator[list[tuple[str, str]]]:
    """What observers are told."""
    found: list[tuple[str, str]] = []

    class Observer:
        @jd.hooks.hookimpl
        def jd_fallback(self, name: str, reason: str) -> None:
            found.append((name, reason))

    observer = Observer()
    jd.hooks.register(observer)
    yield found
    jd.hooks.unregister(observer)


def check(
    engine: str,
    model: nn.Module,
    losses: Callable[[], Tensor],
    why: str | None,
    told: list[tuple[str, str]],
    *,
    batch_dim: int | None = None,
    near: float = 1e-6,
) -> None:
    """Two steps are autograd's own; the first one says why it did without vmap, if it did."""
    descent = jd.Descent(model, "upgrad", engine=engine_of(engine, model, batch_dim))
    falls_back = why is not None and engine != "autogram"
    for first in (True, False):
        model.zero_grad()
        expected = jacobian(losses(), model)
        given = losses()
        if first and falls_back:
            opening = f"{engine} differentiates one objective at a time: torch.vmap cannot run"
            with pytest.warns(UserWarning, match=f"{opening} on this graph .*{why}"):
                step = descent.backward(given)
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=".*one objective at a time")
                step = descent.backward(given)
        assert step.gramian is not None
        assert step.weights is not None
        assert_near(step.gramian, expected @ expected.T, near)
        assert_near(gradient(model), step.weights.double() @ expected, near)
    assert [name for name, _ in told] == ([engine] if falls_back else [])


@pytest.mark.parametrize("batch_dim", [None, 0])
@pytest.mark.parametrize("middle", MIDDLES)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_result_is_autograds_and_a_fallback_is_told_once(
    engine: str, middle: str, batch_dim: int | None, told: list[tuple[str, str]]
) -> None:
    torch.manual_seed(0)
    layer, why = MIDDLES[middle]
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), layer(), nn.Linear(8, 3))

    def losses() -> Tensor:
        torch.manual_seed(1)
        found: Tensor = model(torch.randn(5, 6)).square().mean(1)
        return found

    check(engine, model, losses, why, told, batch_dim=batch_dim)


@pytest.mark.parametrize("batch_dim", [None, 0])
@pytest.mark.parametrize(("backend", "why"), [("eager", None), ("aot_eager", "vmap")])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_compiled_function(
    engine: str,
    backend: str,
    why: str | None,
    batch_dim: int | None,
    told: list[tuple[str, str]],
) -> None:
    torch.manual_seed(0)
    torch.compiler.reset()  # or earlier tests may have used up what dynamo compiles
    model, x = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(5, 6)
    compiled: Any = torch.compile(model, backend=backend)
    with torch._functorch.config.patch(donated_buffer=False):
        check(engine, model, lambda: compiled(x).square().mean(1), why, told, batch_dim=batch_dim)


@pytest.mark.parametrize("engine", ENGINES)
def test_autocast_through_a_norm_layer(engine: str, told: list[tuple[str, str]]) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)), torch.randn(5, 6)

    def losses() -> Tensor:
        with autocast(torch.bfloat16):
            outputs = model(x)
        found: Tensor = outputs.float().square().mean(1)
        return found

    check(engine, model, losses, "", told, near=3e-2)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sparse_embedding(engine: str, told: list[tuple[str, str]]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 3, sparse=True), nn.Flatten(), nn.Linear(6, 1))
    tokens = torch.tensor([[0, 1], [1, 2], [6, 6], [5, 0], [1, 1]])
    check(engine, model, lambda: model(tokens).square().flatten(), "Sparse", told)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_retains_its_gradient_can_still_be_read(engine: str) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    made = engine_of(engine, model)
    hidden = model[0](torch.randn(AT_ONCE, 6))
    hidden.retain_grad()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*one objective at a time")
        made.backward(model[1](hidden).square().mean(1), jd.weighting("upgrad"))
    assert hidden.grad is None or bool(torch.isfinite(hidden.grad).all())


def test_the_functional_interface_falls_back_too() -> None:
    x, weight = torch.randn(5, 4), torch.randn(4, 3, requires_grad=True)
    outputs = Clipped.apply(x @ weight).square().mean(1)
    expected = jd.jac(outputs, [weight], parallel_chunk_size=1, retain_graph=True)[0]
    with pytest.warns(UserWarning, match="autojac differentiates one objective at a time"):
        found = jd.jac(outputs, [weight], parallel_chunk_size=AT_ONCE)[0]
    torch.testing.assert_close(found, expected)
