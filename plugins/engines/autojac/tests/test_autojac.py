"""The engine gives torch's own Jacobian, whichever way it takes the rows."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import jdframework as jd
from jdframework.bases import Aggregator, GramianWeighting, JacobianWeighting
from jdframework.testing.architectures import ARCHITECTURES, Architecture

from jd_plugin_autojac import Autojac
from jd_plugin_autojac.chunk_size import chunk_size

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
QUIET = "ignore:There is a performance drop because we have not yet implemented:UserWarning"


class Mean(GramianWeighting):
    """Weights 1/m, so that these tests need no other plugin."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.new_full((len(gramian),), 1 / len(gramian))


class Ramp(GramianWeighting):
    """Weights 1, 2, 3 and so on."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return torch.arange(1.0, 1.0 + len(gramian)).to(gramian)


class LargestEntry(JacobianWeighting):
    """Weights by the largest entry of each row."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian.abs().amax(1)


class Median(Aggregator):
    """No weighted sum: the median of each coordinate."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian.median(0).values


class Attention(nn.Module):
    """Self-attention alone."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return output


class Recurrent(nn.Module):
    """A GRU, read out at its last step, scaled by a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.scale = nn.GRU(3, 4, batch_first=True), nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.gru(x)[0][:, -1] * self.scale
        return output


class Checkpointed(nn.Module):
    """Its first layer is computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(lambda y: self.first(y).tanh(), x, use_reentrant=False)
        output: Tensor = self.second(hidden)
        return output


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.ConvTranspose2d(4, 3, 2), nn.Flatten()
    )


CASES = {
    **ARCHITECTURES,
    "attention": Architecture("attention", Attention, lambda: torch.randn(3, 4, 8)),
    "gru": Architecture("gru", Recurrent, lambda: torch.randn(3, 5, 3)),
    "checkpointing": Architecture("checkpointing", Checkpointed, lambda: torch.randn(3, 4)),
    "pooling": Architecture("pooling", pooled, lambda: torch.randn(3, 2, 6, 6)),
}


class Substituted(nn.Module):
    """A model with other values for its parameters."""

    def __init__(self, model: nn.Module, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.model, self.values = model, values

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = functional_call(self.model, self.values, (x,))
        return output


def reference(case: Architecture, model: nn.Module) -> tuple[Tensor, ...]:
    names = [name for name, _ in model.named_parameters()]

    def losses(*values: Tensor) -> Tensor:
        return case.losses(Substituted(model, dict(zip(names, values, strict=True))))

    found: tuple[Tensor, ...] = torch.autograd.functional.jacobian(
        losses, tuple(model.parameters())
    )
    return found


def joined(gradients: list[Tensor | None]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


def close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    scale = expected.abs().max().clamp(min=1e-30)
    return bool((found - expected).abs().max() <= tolerance * scale)


@pytest.mark.filterwarnings(QUIET)
@pytest.mark.parametrize("chunk", [None, 1, 2, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_the_jacobian_is_autograds(
    case: Architecture, dtype: torch.dtype, chunk: int | None
) -> None:
    model = case.model(dtype)
    expected = reference(case, model)
    whole = torch.cat([block.reshape(len(block), -1) for block in expected], 1)
    losses = case.losses(model)
    engine = Autojac(model, parallel_chunk_size=chunk)
    found = engine.compute_jacobian(losses)
    side_by_side = torch.cat([block.reshape(len(block), -1) for block in found], 1)
    assert [block.shape for block in found] == [block.shape for block in expected]
    assert close(side_by_side, whole, TOLERANCE[dtype])
    assert close(engine.compute_gramian(losses), whole @ whole.T, 3 * TOLERANCE[dtype])
    assert engine.verify(losses) < 30 * TOLERANCE[dtype]


@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_backward_is_that_of_the_weighted_losses(case: Architecture) -> None:
    model = case.model()
    weights = Autojac(model).backward(case.losses(model), Ramp())
    found = [p.grad for p in model.parameters()]
    model.zero_grad()
    losses = case.losses(model)
    assert weights is not None
    assert weights.tolist() == list(range(1, losses.numel() + 1))
    losses.backward(weights)
    expected = [p.grad for p in model.parameters()]
    assert [g is None for g in found] == [g is None for g in expected]
    assert close(joined(found), joined(expected), 1e-12)


def test_separate_losses_give_what_the_stacked_ones_give() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    losses = model(torch.randn(6, 4, dtype=torch.float64)).square().mean(0)
    engine = Autojac(model)
    separate = engine.compute_gramian(list(losses.unbind()))
    torch.testing.assert_close(separate, engine.compute_gramian(losses))


def test_gradients_are_added_to_what_is_there() -> None:
    model = nn.Linear(3, 2).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    Autojac(model).backward(model(x).square().mean(1), Mean())
    once = model.weight.grad.clone()
    Autojac(model).backward(model(x).square().mean(1), Mean())
    torch.testing.assert_close(model.weight.grad, 2 * once)


def test_frozen_parameters_stay_without_gradient() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    engine = Autojac(model)
    losses = model(torch.randn(5, 3)).square().mean(1)
    assert len(engine.compute_jacobian(losses)) == 3
    engine.backward(losses, Mean())
    assert model[0].weight.grad is None
    assert model[0].bias.grad is not None


def test_parameters_outside_of_the_modules_get_the_weighted_gradient() -> None:
    trunk, head = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    losses = head(trunk(x)).square().mean(0)
    Autojac(trunk).backward(losses, Ramp())
    found = head.weight.grad.clone()
    head.zero_grad()
    head(trunk(x)).square().mean(0).backward(torch.tensor([1.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(found, head.weight.grad)


def test_a_method_without_weights_refuses_parameters_outside_of_the_modules() -> None:
    trunk, head = nn.Linear(3, 4), nn.Linear(4, 2)
    losses = head(trunk(torch.randn(5, 3))).square().mean(0)
    with pytest.raises(jd.UnsupportedModelError, match=r"outside of the given modules.*features"):
        Autojac(trunk).backward(losses, Median())
    assert trunk.weight.grad is None
    assert head.weight.grad is None


def test_features_give_heads_their_own_plain_gradient() -> None:
    trunk = nn.Linear(3, 4).double()
    heads = [nn.Linear(4, 1).double() for _ in range(3)]
    x = torch.randn(5, 3, dtype=torch.float64)
    features = trunk(x)
    losses = [head(features).square().mean() for head in heads]
    weights = Autojac(trunk).backward(losses, Ramp(), features=[features])
    found = [trunk.weight.grad.clone(), *(head.weight.grad.clone() for head in heads)]
    for module in (trunk, *heads):
        module.zero_grad()
    features = trunk(x)
    losses = [head(features).square().mean() for head in heads]
    assert weights is not None
    expected = torch.autograd.grad(losses, [trunk.weight], list(weights), retain_graph=True)
    expected += torch.autograd.grad(sum(losses), [head.weight for head in heads])
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_methods_on_rows_and_coordinates_are_served() -> None:
    model = nn.Linear(3, 2).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    losses = model(x).square().mean(1)
    engine = Autojac(model)
    jacobian = torch.cat([b.reshape(5, -1) for b in engine.compute_jacobian(losses)], 1)
    assert engine.backward(losses, Median(), retain_graph=True) is None
    found = torch.cat([model.weight.grad.flatten(), model.bias.grad])
    torch.testing.assert_close(found, jacobian.median(0).values)
    weights = engine.backward(losses, LargestEntry())
    torch.testing.assert_close(weights, jacobian.abs().amax(1))


def test_where_vmap_cannot_run_rows_are_taken_one_by_one_with_one_warning() -> None:
    torch.compiler.reset()  # or earlier tests may have used up what dynamo compiles
    plain = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    model, x = torch.compile(plain, backend="aot_eager"), torch.randn(6, 4)
    engine = Autojac(model, parallel_chunk_size=4)
    fallbacks: list[str] = []

    class Observer:
        @jd.hooks.hookimpl
        def jd_fallback(self, name: str, reason: str) -> None:
            fallbacks.append(f"{name}: {reason}")

    observer = Observer()
    jd.hooks.register(observer)
    try:
        with pytest.warns(UserWarning, match="autojac differentiates one objective at a time"):
            engine.backward(model(x).square().mean(1), Ramp())
    finally:
        jd.hooks.unregister(observer)
    assert len(fallbacks) == 1
    assert fallbacks[0].startswith("autojac: torch.vmap cannot run")
    found = plain[0].weight.grad.clone()
    plain.zero_grad()
    plain(x).square().mean(1).backward(torch.arange(1.0, 7.0))
    torch.testing.assert_close(found, plain[0].weight.grad)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.backward(model(x).square().mean(1), Ramp())


def test_retained_gradients_do_not_disturb_the_jacobian() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(6, 4, dtype=torch.float64)

    def losses(retain: bool) -> Tensor:
        hidden = model[:2](x)
        if retain:
            hidden.retain_grad()
        output: Tensor = model[2](hidden)
        return output.square().mean(1)

    expected = Autojac(model, parallel_chunk_size=1).compute_gramian(losses(retain=False))
    engine = Autojac(model, parallel_chunk_size=3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="autojac differentiates one objective at a time")
        found = engine.compute_gramian(losses(retain=True))
    torch.testing.assert_close(found, expected)


def test_autocast_through_a_norm_layer_falls_back_to_the_same_gramian() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    x = torch.randn(6, 8)

    def losses() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x).float().square().mean(1)

    alone = Autojac(model, parallel_chunk_size=1)
    expected = alone.compute_gramian(losses())
    assert expected.dtype == torch.float32
    assert alone.verify(losses()) < 1e-2
    with pytest.warns(UserWarning, match="one objective at a time: torch.vmap cannot run"):
        found = Autojac(model, parallel_chunk_size=3).compute_gramian(losses())
    torch.testing.assert_close(found, expected)


def test_a_sparse_embedding_is_served() -> None:
    model = nn.Sequential(nn.Embedding(7, 3, sparse=True), nn.Flatten(), nn.Linear(6, 1))
    tokens = torch.tensor([[0, 1], [1, 2], [6, 6]])
    assert Autojac(model).verify(model(tokens).square().flatten()) < 1e-5


def test_grad_is_untouched_when_the_method_fails() -> None:
    class Failing(GramianWeighting):
        def forward(self, gramian: Tensor, /) -> Tensor:
            raise RuntimeError("no luck")

    model = nn.Linear(3, 2)
    model.weight.grad = torch.ones_like(model.weight)
    with pytest.raises(RuntimeError, match="no luck"):
        Autojac(model).backward(model(torch.randn(4, 3)).square().mean(1), Failing())
    assert torch.equal(model.weight.grad, torch.ones_like(model.weight))
    assert model.bias.grad is None


def test_losses_of_another_model_are_refused() -> None:
    losses = nn.Linear(3, 2)(torch.randn(4, 3)).mean(1)
    with pytest.raises(ValueError, match="depend on no parameter of the engine's modules"):
        Autojac(nn.Linear(3, 2)).backward(losses, Mean())


def test_reentrant_checkpointing_is_refused_with_the_remedy() -> None:
    model = nn.Linear(3, 2)
    x = torch.randn(4, 3, requires_grad=True)
    losses = checkpoint(model, x, use_reentrant=True).mean(1)
    with pytest.raises(jd.UnsupportedModelError, match="use_reentrant=False"):
        Autojac(model).backward(losses, Mean())


def test_a_wrapped_model_is_refused_by_name() -> None:
    class DistributedDataParallel(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    with pytest.raises(jd.UnsupportedModelError, match="DistributedDataParallel"):
        Autojac(DistributedDataParallel(nn.Linear(2, 2)))


def test_the_graph_is_freed_after_a_step_and_kept_when_asked() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    engine = Autojac(model, parallel_chunk_size=2)
    for _ in range(2):
        losses = model(torch.randn(4, 3)).square().mean(1)
        engine.backward(losses, Mean())
    with pytest.raises(RuntimeError, match="second time"):
        losses.sum().backward()
    losses = model(torch.randn(4, 3)).square().mean(1)
    engine.backward(losses, Mean(), retain_graph=True)
    losses.sum().backward()


def test_nothing_of_a_step_is_kept_alive() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    engine = Autojac(model)

    def step() -> weakref.ref[Tensor]:
        hidden = model[:2](torch.randn(4, 3))
        engine.backward(model[2](hidden).square().mean(1), Mean())
        return weakref.ref(hidden)

    traces = [step() for _ in range(5)]
    gc.collect()
    assert [trace() for trace in traces] == [None] * 5


def test_the_choice_depends_on_the_graph_and_never_on_a_clock() -> None:
    small, large = [torch.empty(100)], [torch.empty(10**6)]
    assert chunk_size(8, small, frozenset({"AddmmBackward0"})) == 8
    assert chunk_size(500, small, frozenset({"AddmmBackward0"})) < 500
    assert chunk_size(2, small, frozenset({"AddmmBackward0"})) == 1
    assert chunk_size(8, large, frozenset({"AddmmBackward0"})) == 1
    assert chunk_size(8, small, frozenset({"ConvolutionBackward0"})) == 1
