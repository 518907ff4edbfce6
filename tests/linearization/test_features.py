"""Where the graph of the losses is cut: who gets which gradient, and what cannot be cut at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Net(nn.Module):
    """Layers on the way from the data to the losses; a test says which of them are shared."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.trunk = nn.Linear(3, 4), nn.Linear(4, 4)
        self.neck, self.gate = nn.Linear(4, 4), nn.Parameter(torch.rand(4))
        self.heads = nn.ModuleList([nn.Linear(4, 1) for _ in range(3)])
        self.double()


Made = tuple[list[Tensor], Any]


def mixed(net: Net, *features: Tensor) -> list[Tensor]:
    """One loss per head, of all features."""
    total = torch.stack(features).sum(0)
    return [(head(total) - i).square().mean() for i, head in enumerate(net.heads)]


def before(net: Net, x: Tensor) -> Made:
    features = net.trunk(net.stem(x).tanh()).tanh()
    return mixed(net, features), features


def between(net: Net, x: Tensor) -> Made:
    features = net.neck(net.trunk(net.stem(x).tanh()).tanh()).tanh()
    return mixed(net, features), features


def on_both_sides(net: Net, x: Tensor) -> Made:
    features = net.trunk(net.stem(x).tanh() * net.gate).tanh()
    return mixed(net, features * net.gate), features


def tied(net: Net, x: Tensor) -> Made:
    features = net.trunk(net.stem(x).tanh()).tanh()
    return mixed(net, features @ net.trunk.weight), features


def nested(net: Net, x: Tensor) -> Made:
    low = net.trunk(net.stem(x).tanh()).tanh()
    high = net.neck(low).tanh()
    return mixed(net, low, high), {"low": low, "high": high}


def skipping(net: Net, x: Tensor) -> Made:
    """What the stem gives goes into the trunk, and around it."""
    hidden = net.stem(x).tanh()
    features = net.trunk(hidden).tanh()
    return mixed(net, features + hidden), features


def skipping_for_one_task(net: Net, x: Tensor) -> Made:
    """The last task reaches the stem past the features alone, and the second both ways."""
    hidden = net.stem(x).tanh()
    features = net.trunk(hidden).tanh()
    first, second, last = net.heads
    return [
        first(features).square().mean(),
        second(features * hidden).square().mean() + 1.0,
        (last(hidden) - 2.0).square().mean(),
    ], features


def one_task_each(net: Net, x: Tensor) -> Made:
    hidden = net.stem(x).tanh()
    features = [net.trunk(hidden).tanh(), net.neck(hidden).tanh()]
    losses = [head(f).square().mean() for head, f in zip(net.heads, features, strict=False)]
    return losses, features


SINGLE = [before, between, one_task_each]
DOUBLE = [on_both_sides, tied, nested, skipping, skipping_for_one_task]
RUNS: list[tuple[Callable[[Net, Tensor], Made], dict[str, Any]]] = [
    (net, {"engine": engine})
    for net in [*SINGLE, *DOUBLE]
    for engine in (
        "autogram",
        "autojac",
        {"name": "autojac", "parallel_chunk_size": 1},
        "chunked",
        {"name": "chunked", "offload": None, "memory": "1KB"},
    )
] + [(net, {"on": "features"}) for net in SINGLE]


def _label(run: object) -> str:
    return getattr(run, "__name__", str(run))


@pytest.mark.parametrize(("forward", "settings"), RUNS, ids=_label)
def test_what_features_depend_on_outside_of_the_trunk_gets_the_weighted_gradient(
    forward: Callable[[Net, Tensor], Made], settings: dict[str, Any]
) -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    descent = jd.Descent(net.trunk, "mgda", **settings)
    for calls, retain in ((1, True), (2, False)):
        if calls == 1:
            losses, features = forward(net, x)
        step = descent.backward(losses, features=features, retain_graph=retain)
        assert step.weights is not None
        assert not torch.equal(step.weights, torch.ones_like(step.weights))
        if calls == 1:
            weights = step.weights.clone()
    heads = {id(p) for p in net.heads.parameters()}
    parameters = list(net.parameters())
    again, _ = forward(net, x)
    weighted = torch.autograd.grad(
        again, parameters, [*weights.unbind()], retain_graph=True, allow_unused=True
    )
    plain = torch.autograd.grad(sum(again), parameters, allow_unused=True)
    for p, of_shared, of_head in zip(parameters, weighted, plain, strict=True):
        expected = of_head if id(p) in heads else of_shared
        torch.testing.assert_close(p.grad, None if expected is None else 2 * expected)


def test_a_scaler_scales_what_lies_before_the_trunk_too() -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    found = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=8.0)):
        net.zero_grad()
        losses, features = before(net, x)
        jd.Descent(net.trunk, "upgrad").backward(losses, features=features, scaler=scaler)
        found.append(torch.cat([p.grad.flatten() for p in net.stem.parameters()]))
    torch.testing.assert_close(8 * found[0], found[1])


@pytest.mark.parametrize("engine", ["autogram", "autojac", "chunked"])
def test_engines_alone_serve_layers_before_the_trunk(engine: str) -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    losses, features = before(net, x)
    server = jd.engine(engine, net.trunk)
    weights = server.backward(losses, jd.weighting("upgrad"), features={"all": features})
    again, _ = before(net, x)
    (expected,) = torch.autograd.grad(again, [net.stem.weight], [*weights.unbind()])
    torch.testing.assert_close(net.stem.weight.grad, expected)


@pytest.mark.parametrize("method", ["graddrop", "grouped"])
def test_a_method_without_weights_names_what_it_has_no_update_for(method: str) -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    losses, features = before(net, x)
    config = {"inner": "mgda"} if method == "grouped" else {}
    with pytest.raises(jd.UnsupportedModelError, match=r"2 tensors .* \(shapes .*\[4, 3\].* add "):
        jd.Descent(net.trunk, method, **config).backward(losses, features=features)
    assert all(p.grad is None for p in net.parameters())


def test_on_features_a_method_without_weights_serves_what_lies_before_the_trunk() -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    losses, features = before(net, x)
    rows = torch.stack(
        [torch.autograd.grad(loss, features, retain_graph=True)[0].flatten() for loss in losses]
    )
    direction = jd.aggregator("config")(rows).reshape(features.shape)
    (expected,) = torch.autograd.grad(features, [net.stem.weight], direction, retain_graph=True)
    jd.Descent(net.trunk, "config", on="features").backward(losses, features=features)
    torch.testing.assert_close(net.stem.weight.grad, expected)


@pytest.mark.parametrize("forward", [on_both_sides, skipping, skipping_for_one_task])
def test_on_features_names_a_leaf_that_goes_around_them(
    forward: Callable[[Net, Tensor], Made],
) -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    losses, features = forward(net, x)
    with pytest.raises(jd.UnsupportedModelError, match=r"shape \[.*\] outside of the given"):
        jd.Descent(net.trunk, "mgda", on="features").backward(losses, features=features)


def _wrong(net: Net, x: Tensor) -> dict[str, tuple[Callable[[Tensor], Any], str]]:
    again = net.trunk(net.stem(torch.randn(6, 3, dtype=F64)).tanh()).tanh()
    return {
        "another pass": (lambda f: again, r"features of shape \[6, 4\] plays no part"),
        "a copy": (lambda f: f.clone(), r"features of shape \[6, 4\] plays no part"),
        "a view": (lambda f: f.reshape(24), r"features of shape \[24\] plays no part"),
        "one too many": (
            lambda f: {"p3": f, "p4": [f * 2]},
            r"features\['p4'\]\[0\] of shape \[6, 4\] plays no part in the losses: give the very",
        ),
        "the input": (lambda f: x, r"features of shape \[6, 3\] depends on no parameter of the"),
    }


CALLS: dict[str, Callable[[Net, list[Tensor], Any], object]] = {
    "a step": lambda net, losses, f: jd.Descent(net.trunk, "upgrad").backward(losses, features=f),
    "autojac": lambda net, losses, f: jd.Descent(net.trunk, "upgrad", engine="autojac").backward(
        losses, features=f
    ),
    "on features": lambda net, losses, f: jd.Descent(net.trunk, "mgda", on="features").backward(
        losses, features=f
    ),
    "an engine": lambda net, losses, f: jd.engine("chunked", net.trunk).backward(
        losses, jd.weighting("upgrad"), features=f
    ),
    "explain": lambda net, losses, f: jd.explain(net.trunk, "upgrad", losses, features=f),
    "a function": lambda net, losses, f: jd.mtl_backward(losses, f, "upgrad"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("case", ["another pass", "a copy", "a view", "one too many", "the input"])
def test_features_that_the_losses_do_not_pass_through_are_refused_by_name(
    case: str, call: str
) -> None:
    if (case, call) == ("the input", "a function"):
        pytest.skip("what is shared is then whatever was used to compute the input")
    net, x = Net(), torch.randn(6, 3, dtype=F64, requires_grad=True)
    losses, features = before(net, x)
    wrong, message = _wrong(net, x)[case]
    with pytest.raises(ValueError, match=message):
        CALLS[call](net, losses, wrong(features))
    assert all(p.grad is None for p in net.parameters())


def test_a_feature_counts_that_losses_reach_through_another_alone() -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    low = net.trunk(net.stem(x).tanh())
    high = net.neck(low.tanh())
    losses = mixed(net, high)
    jd.Descent([net.trunk, net.neck], "upgrad").backward(losses, features=[low, high])
    assert net.trunk.weight.grad is not None


@pytest.fixture
def compiling() -> Iterator[Callable[[Any], Any]]:
    import torch._functorch.config  # slow

    torch.compiler.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        yield lambda what: torch.compile(what, backend="aot_eager")
    torch.compiler.reset()


@pytest.mark.parametrize("call", CALLS)
def test_a_model_that_was_compiled_as_a_whole_is_told_what_to_compile(
    call: str, compiling: Callable[[Any], Any]
) -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    losses, features = compiling(before)(net, x)
    with pytest.raises(ValueError, match="compiled function.*compile them apart, trunk = torch"):
        CALLS[call](net, losses, features)
    # One loss goes through the features, the others past them, inside of the compiled function.
    losses[0] = net.heads[0](features).square().mean()
    with pytest.raises(ValueError, match="compiled function.*compile them apart, trunk = torch"):
        CALLS[call](net, losses, features)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's
@pytest.mark.parametrize("settings", [{"engine": "chunked"}, {"on": "features"}])
def test_trunk_and_heads_that_were_compiled_apart_are_served(
    settings: dict[str, Any], compiling: Callable[[Any], Any]
) -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    losses, features = before(net, x)
    jd.Descent(net.trunk, "upgrad", **settings).backward(losses, features=features)
    expected = [p.grad for p in net.parameters()]
    net.zero_grad()
    features = compiling(lambda x: net.trunk(net.stem(x).tanh()).tanh())(x)
    losses = compiling(lambda f: mixed(net, f))(features)
    jd.Descent(net.trunk, "upgrad", **settings).backward(losses, features=features)
    torch.testing.assert_close([p.grad for p in net.parameters()], expected)


@pytest.mark.parametrize("settings", [{}, {"engine": "chunked"}, {"on": "features"}])
@pytest.mark.parametrize("method", ["upgrad", "config", "nash-mtl"])
def test_a_trunk_is_frozen_and_thawed_at_will(method: str, settings: dict[str, Any]) -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    net.stem.requires_grad_(False)
    descent = jd.Descent(net.trunk, method, **settings)
    for frozen in (True, False, True):
        net.zero_grad()
        net.trunk.requires_grad_(not frozen)
        losses, features = before(net, x)
        step = descent.backward(losses, features=features)
        assert not step.skipped
        expected = torch.autograd.grad(sum(before(net, x)[0]), list(net.heads.parameters()))
        for parameter, gradient in zip(net.heads.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
        assert (net.trunk.weight.grad is None) == frozen
        assert (step.gramian is None) == frozen
        if frozen:
            assert step.weights is None


def test_a_frozen_trunk_trains_its_heads_with_independent_batches_too() -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    net.stem.requires_grad_(False)
    net.trunk.requires_grad_(False)
    losses, features = before(net, x)
    jd.Descent(net.trunk, "modo").backward(
        losses, features=features, independent=before(net, x + 1)[0]
    )
    assert net.heads[0].weight.grad is not None


def test_one_frozen_feature_of_several_is_left_out() -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    net.stem.requires_grad_(False)
    net.neck.requires_grad_(False)
    losses, features = one_task_each(net, x)
    step = jd.Descent([net.trunk, net.neck], "upgrad").backward(losses, features=features)
    assert step.gramian is not None
    assert step.gramian[1].tolist() == [0.0, 0.0]
    assert net.heads[1].weight.grad is not None
    net.neck.requires_grad_(True)
    losses, features = one_task_each(net, x)
    descent = jd.Descent([net.trunk, net.neck], "upgrad")
    with pytest.raises(ValueError, match=r"features\[1\] of shape \[6, 4\] does not require grad"):
        descent.backward(losses, features=[features[0], features[1].detach()])


def test_a_frozen_trunk_is_explained() -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    net.stem.requires_grad_(False)
    net.trunk.requires_grad_(False)
    losses, features = before(net, x)
    found = jd.explain(net.trunk, "upgrad", losses, features=features)
    assert (found.engine, found.n, found.held_bytes) == ("autogram", 0, None)


def test_layers_before_a_frozen_trunk_have_no_weights_to_be_trained_with() -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    net.trunk.requires_grad_(False)
    losses, features = before(net, x)
    with pytest.raises(ValueError, match=r"are frozen.*depend on 2 other tensors .*\[4, 3\]"):
        jd.Descent(net.trunk, "upgrad").backward(losses, features=features)


@pytest.mark.parametrize("engine", ["auto", "autojac", "chunked"])
def test_a_frozen_model_without_features_is_told_so(engine: str) -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    net.trunk.requires_grad_(False)
    with pytest.raises(ValueError, match=r"no parameter of the given modules requires.*features=…"):
        jd.Descent(net.trunk, "upgrad", engine=engine).backward(before(net, x)[0])


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("form", ["mapping", "nested", "generator"])
def test_features_are_taken_in_every_form(form: str, call: str) -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    net.stem.requires_grad_(False)
    forms: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "mapping": lambda a, b: {"p3": a, "p4": b},
        "nested": lambda a, b: ({"deep": [a]}, (b,)),
        "generator": lambda a, b: (f for f in (a, b)),
    }
    found = []
    for take in (lambda a, b: [a, b], forms[form]):
        net.zero_grad()
        hidden = net.stem(x).tanh()
        features = net.trunk(hidden[:3]), net.trunk(hidden[3:])
        CALLS[call](net, mixed(net, *features), take(*features))
        found.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ({"p3": None}, TypeError, r"features\['p3'\] must be a tensor, .* not None"),
        ([[1.0]], TypeError, r"features\[0\]\[0\] must be a tensor, .* not float"),
        (nn.Linear(2, 2), TypeError, r"features must be a tensor, .* not Linear"),
        ("trunk", TypeError, r"features must be a tensor, .* not str"),
        ({}, ValueError, "features is empty"),
        (
            {"a": (same := torch.ones(2)), "b": [same]},
            ValueError,
            r"more than once: features\['a'\] and features\['b'\]\[0\] are the same",
        ),
    ],
)
def test_wrong_features_are_named(features: Any, error: type[Exception], message: str) -> None:
    net, x = Net(), torch.randn(6, 3, dtype=F64)
    with pytest.raises(error, match=message):
        jd.Descent(net.trunk, "upgrad").backward(before(net, x)[0], features=features)
