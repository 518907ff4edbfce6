"""``jd.explain`` says what a step would run on, and changes nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.autograd import memory
from jdframework.bases import Engine, EngineConfig, Linearization
from jdframework.linearization import JacobianRows

FEATURE = torch.ones(3, requires_grad=True)


def model_of(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), *layers, nn.Tanh(), nn.Linear(8, 3))


def losses_of(model: nn.Module, m: int = 5) -> Tensor:
    torch.manual_seed(1)
    losses: Tensor = model(torch.randn(m, 6)).square().mean(1)
    return losses


def hooks_on(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(layer, kind)) for layer in model.modules() for kind in kinds)


CASES: list[tuple[dict[str, Any], str, str]] = [
    (
        {"method": "upgrad", "batch_dim": 0},
        "autogram",
        "instance-wise, fused: one backward pass for all 5 objectives",
    ),
    (
        {"method": "upgrad", "engine": "autogram"},
        "autogram",
        "task-wise, fused: a backward pass for each of 5",
    ),
    ({"method": "upgrad"}, "autojac", "5 of 5 objectives at once, by torch.vmap"),
    (
        {
            "method": "upgrad",
            "batch_dim": 0,
            "engine": {"name": "autogram", "memory": "1B"},
        },
        "autogram",
        "instance-wise, two passes: one backward pass for all 5 objectives, 2 times, for a part",
    ),
    ({"method": "graddrop"}, "autojac", "5 of 5 objectives at once, by torch.vmap"),
    (
        {"method": "graddrop", "engine": {"name": "autojac", "parallel_chunk_size": 2}},
        "autojac",
        "2 of 5 objectives at once, by torch.vmap",
    ),
    (
        {"method": "graddrop", "engine": {"name": "autojac", "parallel_chunk_size": 1}},
        "autojac",
        "one objective at a time",
    ),
    (
        {"method": "upgrad", "engine": {"name": "chunked", "memory": "1KB"}},
        "chunked",
        "one objective at a time, kept on the disk",
    ),
    (
        {"method": "upgrad", "engine": {"name": "chunked", "memory": "1KB", "offload": None}},
        "chunked",
        "one objective at a time, again for each block of columns",
    ),
    (
        {"method": "upgrad", "engine": {"name": "chunked", "parallel_chunk_size": 3}},
        "chunked",
        "3 of 5 objectives at once, kept on the device",
    ),
    ({"method": "mean"}, "autograd", "one backward pass of the scalar"),
]


@pytest.mark.parametrize(("settings", "engine", "mode"), CASES)
def test_it_tells_engine_and_mode_and_the_step_runs_on_it(
    settings: dict[str, Any], engine: str, mode: str
) -> None:
    model = model_of()
    found = jd.explain(model, losses=lambda: losses_of(model), **settings)
    assert found.engine == engine
    assert found.mode.startswith(mode)
    step = jd.Descent(model, **settings).backward(losses_of(model))
    assert (step.engine, step.reason) == (found.engine, found.reason)


def test_it_tells_the_jacobians_size_and_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: 7_000_000)
    model = model_of().double()
    n = sum(p.numel() for p in model.parameters())
    model.append(nn.Linear(2, 2).requires_grad_(False))
    found = jd.explain(
        model,
        "graddrop",
        lambda: model[:-1](torch.ones(5, 6, dtype=torch.float64)).sum(1),
    )
    assert (found.m, found.n, found.jacobian_bytes) == (5, n, 5 * n * 8)
    assert (found.free_bytes, found.device) == (7_000_000, "cpu")
    assert found.held_bytes == 3 * found.jacobian_bytes


def test_it_foresees_the_way_out_of_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: 2000)
    model = model_of()
    found = jd.explain(model, "graddrop", losses_of(model))
    assert found.engine == "chunked"
    assert "would hold 5.0 KB for 5 objectives, but 2.0 KB are free" in found.passed_over["autojac"]
    assert found.passed_over["autogram"] == "forms no Jacobian, which graddrop needs"
    assert "can form it here: autojac would hold 5.0 KB" in found.reason
    assert found.held_bytes is not None
    assert found.held_bytes <= 1000


def test_every_other_engine_has_its_reason() -> None:
    model = model_of(nn.BatchNorm1d(8))
    found = jd.explain(model, "upgrad", losses_of(model), batch_dim=0)
    assert found.engine == "autojac"
    assert found.passed_over["autogram"].startswith("the layer '1' (BatchNorm1d)")
    assert found.passed_over["chunked"] == "costlier than autojac, which serves as well"
    found = jd.explain(model, "upgrad", losses_of(model), engine="autojac")
    assert set(found.passed_over.values()) == {"autojac was asked for"}
    assert {found.engine, *found.passed_over} == set(jd.available("engine"))
    found = jd.explain(model, "mean", losses_of(model))
    assert dict.fromkeys(jd.available("engine"), "not needed") == found.passed_over


def test_an_engine_that_refuses_the_modules_is_passed_over_with_its_words() -> None:
    model = nn.Linear(3, 2, dtype=torch.complex64)
    losses = model(torch.ones(4, 3, dtype=torch.complex64)).abs().sum(1)
    found = jd.explain(model, "mean", losses, engine="auto")
    assert found.engine == "autograd"
    with pytest.raises(jd.UnsupportedModelError, match="'weight' is complex"):
        jd.explain(model, "upgrad", losses, engine="autogram")


def test_features_are_cut_at_as_in_a_step() -> None:
    trunk, heads = model_of(), nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)])
    features = trunk(torch.ones(7, 6))
    losses = [head(features).mean() for head in heads]
    found = jd.explain(trunk, "graddrop", losses, features=features)
    assert (found.m, found.mode) == (2, "one objective at a time")
    found = jd.explain(trunk, "upgrad", losses, features=features, engine="autogram")
    assert found.mode == "task-wise, fused: a backward pass for each of 2 objectives"
    chosen = {"name": "autojac", "parallel_chunk_size": 2}
    found = jd.explain(trunk, "upgrad", losses, features=features, engine=chosen)
    assert found.mode == "2 of 2 objectives at once, by torch.vmap"


@pytest.mark.parametrize("engine", ["auto", "autogram", "autojac", "chunked"])
@pytest.mark.parametrize("called", [True, False])
def test_it_changes_nothing(engine: str, called: bool) -> None:
    model = model_of()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = losses_of(model)
    state = torch.get_rng_state()
    observed: list[str] = []

    class Observer:
        @jd.hooks.hookimpl
        def jd_fallback(self, name: str, reason: str) -> None:
            observed.append(name)

    observer = Observer()
    jd.hooks.register(observer)
    try:
        method = jd.weighting("nash-mtl")
        jd.explain(model, method, (lambda: losses) if called else losses, engine=engine)
    finally:
        jd.hooks.unregister(observer)
    assert hooks_on(model) == 0
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(model.state_dict(), before)
    assert repr(method.state_dict()) == repr(jd.weighting("nash-mtl").state_dict())
    assert not observed
    losses.sum().backward()
    assert model[0].weight.grad is not None


def test_a_method_of_groups_that_was_handed_over_is_not_bound() -> None:
    model = model_of()
    method = jd.aggregator("grouped", inner="upgrad", by="module")
    before = set(method.state_dict())
    found = jd.explain(model, method, losses_of(model), batch_dim=0)
    assert found.engine == "autogram"
    assert set(method.state_dict()) == before
    with pytest.raises(jd.ConfigError):
        method.groups(4)


def test_hooks_are_gone_after_an_error() -> None:
    model = model_of()

    def fail() -> Tensor:
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        jd.explain(model, "upgrad", fail, batch_dim=0)
    assert hooks_on(model) == 0


def test_an_engine_that_was_handed_over_stays_open() -> None:
    model = model_of()
    with jd.engine("autogram", model, batch_dim=0) as engine:
        hooked = hooks_on(model)
        assert hooked > 0
        assert jd.explain(model, "upgrad", losses_of(model), engine=engine).engine == "autogram"
        assert hooks_on(model) == hooked


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        ([], ValueError, "losses is empty"),
        (torch.ones(3), ValueError, "losses does not require gradients"),
        (lambda: torch.ones(3), ValueError, "losses does not require gradients"),
        (torch.ones(3, requires_grad=True) * 2, ValueError, "depend on no parameter"),
    ],
)
def test_wrong_losses_are_one_clear_sentence(
    losses: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        jd.explain(nn.Linear(2, 2), "upgrad", losses, engine="autojac")


@pytest.mark.parametrize("engine", ["auto", "autojac"])
@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "features is empty: give the shared representation, or leave it out"),
        (
            torch.ones(3),
            r"features of shape \[3\] does not require gradients, but parameters of the",
        ),
        ([FEATURE, FEATURE], "features contains a tensor more than once"),
    ],
)
def test_wrong_features_are_one_clear_sentence_here_and_in_a_step(
    features: Any, message: str, engine: str
) -> None:
    model = model_of()
    with pytest.raises(ValueError, match=message):
        jd.explain(model, "upgrad", losses_of(model), features=features, engine=engine)
    with pytest.raises(ValueError, match=message):
        jd.Descent(model, "upgrad", engine=engine).backward(losses_of(model), features=features)


def test_a_third_partys_engine_that_tells_nothing_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @jd.register("engine", "silent-of-this-test")
    class Silent(Engine):
        """Gives what autojac gives."""

        Config = EngineConfig
        capabilities = frozenset({"gramian", "jacobian"})
        cost = 1

        def linearize(self, outputs: Any, inputs: Any = None, **options: Any) -> Linearization:
            return JacobianRows((), ())

    monkeypatch.setattr(memory, "free_bytes", lambda _: 1)
    try:
        model = model_of()
        found = jd.explain(model, "upgrad", losses_of(model))
    finally:
        jd.unregister("engine", "silent-of-this-test")
    assert (found.engine, found.mode, found.held_bytes) == ("silent-of-this-test", "", None)
    assert "mode" not in str(found)
    assert "holds" not in str(found)


def test_it_prints_as_a_table() -> None:
    found = jd.Explanation(
        method="graddrop",
        engine="autojac",
        mode="one objective at a time",
        reason="graddrop needs the Jacobian, and autojac is the cheapest engine that can form it "
        "here",
        passed_over={"autogram": "forms no Jacobian, which graddrop needs", "chunked": "costlier"},
        m=3,
        n=1000,
        jacobian_bytes=12_000,
        held_bytes=36_000,
        free_bytes=4_000_000_000,
        device="cuda:0",
    )
    assert str(found) == (
        "method      graddrop\n"
        "engine      autojac\n"
        "mode        one objective at a time\n"
        "because     graddrop needs the Jacobian, and autojac is the cheapest engine that can\n"
        "            form it here\n"
        "Jacobian    [3, 1000] takes 12.0 KB\n"
        "memory      autojac holds 36.0 KB, 4.0 GB free on cuda:0\n"
        "passed over autogram: forms no Jacobian, which graddrop needs\n"
        "            chunked: costlier"
    )
    unknown = dataclasses.replace(found, held_bytes=None, free_bytes=None)
    assert "memory" not in str(unknown)


def test_task_by_task_small_layers_are_left_to_the_rows_of_the_jacobian() -> None:
    """Where no layer's Gramian is cheaper than its rows, going layer by layer only costs."""
    small, large = nn.Linear(8, 8), nn.Linear(512, 512)
    for model, taken in ((small, "autojac"), (large, "autogram")):
        descent = jd.Descent(model, "upgrad")
        losses = model(torch.randn(4, model.in_features)).square().mean(0)[:3]
        step = descent.backward(list(losses))
        assert step.engine == taken
        if model is small:
            assert "no layer's Gramian is cheaper here than the rows" in step.reason


@pytest.mark.parametrize(("steps", "m", "taken"), [(60, 4, "autojac"), (60, 32, "autogram")])
def test_a_small_layer_in_a_long_loop_is_left_to_the_rows_of_few_objectives(
    steps: int, m: int, taken: str
) -> None:
    """Each call by itself costs something, and the rows of all objectives go back together."""
    layer = nn.Linear(4, 4)
    descent = jd.Descent(layer, "upgrad", batch_dim=0)
    hidden = torch.randn(m, 4)
    for _ in range(steps):
        hidden = layer(hidden).tanh()
    step = descent.backward(hidden.square().mean(1))
    assert step.engine == taken
    assert ("called 60 times" in step.reason) == (taken == "autojac")


class Transformed(nn.Module):
    """All of its parameters are transformed before they meet the data."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.matrix = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale.exp()) @ self.matrix.sin()


def test_a_model_without_layers_is_not_left_to_the_rows() -> None:
    model = Transformed()
    descent = jd.Descent(model, "upgrad", batch_dim=0)
    step = descent.backward(model(torch.randn(12, 6)).square().mean(1))
    assert step.engine == "autogram"


def test_a_small_layer_on_many_positions_in_a_long_loop_is_not_left_to_the_rows() -> None:
    """As in a cellular automaton, whose passes are dear, and its layers small."""
    layer = nn.Linear(4, 4)
    descent = jd.Descent(layer, "upgrad", batch_dim=0)
    hidden = torch.randn(4, 2000, 4)
    for _ in range(60):
        hidden = layer(hidden).tanh()
    assert descent.backward(hidden.square().mean((1, 2))).engine == "autogram"
