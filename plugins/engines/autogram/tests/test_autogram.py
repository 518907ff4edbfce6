"""The engine's contract, its cleanliness, and the rules that others may add."""

from __future__ import annotations

import copy
import gc
import io
import math
import pickle
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.testing import EngineSuite

from jd_plugin_autogram import Autogram
from jd_plugin_autogram.cost import ghost_is_cheaper
from jd_plugin_autogram.factors import Product
from jd_plugin_autogram.layout import Layout, candidates
from jd_plugin_autogram.rules import Rule, Use, by_objective, rules

from .truth import F64, Ramp, assert_served, install, one, reference, several


class TestContract(EngineSuite):
    spec = Autogram


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class TestCleanUp:
    def test_no_hook_is_left_after_close_or_garbage_collection(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 3))
        for end in (Autogram.close, lambda engine: None):
            engine = Autogram(model, batch_dim=0)
            assert model[0]._forward_hooks
            end(engine)
            del engine
            gc.collect()
            assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model)

    def test_the_model_can_be_copied_pickled_and_saved_under_hooks(self) -> None:
        model, x = nn.Sequential(nn.PReLU(), nn.Linear(4, 3)), torch.randn(5, 4)
        engine = Autogram(model, batch_dim=0)
        pickled = pickle.loads(pickle.dumps(model))  # noqa: S301  # our own bytes
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        assert torch.load(file, weights_only=True).keys() == model.state_dict().keys()
        for twin in (copy.deepcopy(model), pickled):
            torch.testing.assert_close(twin(x), model(x))
            other = Autogram(twin, batch_dim=0)
            losses = one(twin(x))
            torch.testing.assert_close(
                other.compute_gramian(losses).double(),
                reference(losses, list(twin.parameters())),
                rtol=1e-5,
                atol=1e-5,
            )
        engine.backward(one(model(x)), Ramp())
        assert model[1].weight.grad is not None

    @pytest.mark.parametrize("retain_graph", [False, True])
    def test_nothing_of_a_step_is_kept_alive(self, retain_graph: bool) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4))
        engine = Autogram(model, batch_dim=0)

        def step(backward: bool) -> weakref.ref[Tensor]:
            hidden = model[0](torch.randn(5, 4)).tanh()
            losses = one(model[1](hidden.unsqueeze(0))[0][0])
            if backward:
                engine.backward(losses, Ramp(), retain_graph=retain_graph)
            return weakref.ref(hidden)

        gc.disable()
        try:
            traces = [step(backward) for backward in (True, False, True, True)]
            assert [trace() for trace in traces] == [None] * 4
        finally:
            gc.enable()

    def test_the_graph_is_freed_after_a_step_and_kept_when_asked(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
        engine, x = Autogram(model, batch_dim=0), torch.randn(5, 4)
        engine.backward(one(model(x)), Ramp())
        losses = one(model(x))
        engine.backward(losses, Ramp(), retain_graph=True)
        engine.backward(losses, Ramp())
        with pytest.raises(RuntimeError, match="second time"):
            losses.sum().backward()

    @pytest.mark.parametrize("batch_dim", [0, None])
    def test_a_second_backward_through_a_freed_graph_is_refused_as_by_torch(
        self, batch_dim: int | None
    ) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
        engine = Autogram(model, batch_dim=batch_dim)
        for _ in range(3):  # the first step is checked, and the others are not
            hidden = model(torch.randn(5, 4))
            engine.backward(one(hidden), Ramp(), retain_graph=True)
            losses = one(hidden)
            engine.backward(losses, Ramp())
            before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            for again in (losses, one(hidden)):
                with pytest.raises(RuntimeError, match="second time"):
                    engine.backward(again, Ramp())
            after = [p.grad for p in model.parameters()]
            assert all(
                torch.equal(a, b) for a, b in zip(before, after, strict=True) if b is not None
            )

    def test_what_frees_nothing_can_be_used_again_as_in_torch(self) -> None:
        model, x = nn.Linear(4, 3).to(F64), torch.randn(5, 4, dtype=F64)
        scale = nn.Parameter(torch.ones(3, dtype=F64))
        shared = scale + 1
        engine = Autogram(model, batch_dim=0)
        for _ in range(2):
            engine.backward((model(x) + shared).square().mean(1), Ramp())
        assert scale.grad is not None

    def test_the_engine_is_silent_after_close(self) -> None:
        model, x = nn.Linear(4, 3).to(F64), torch.randn(5, 4, dtype=F64)
        engine = Autogram(model, batch_dim=0)
        engine.close()
        losses = one(model(x))
        # Without hooks the graph alone has to do, and here it does.
        torch.testing.assert_close(
            engine.compute_gramian(losses), reference(losses, list(model.parameters()))
        )


def test_descent_goes_on_with_another_engine_where_this_one_refuses() -> None:
    pytest.importorskip("jd_plugin_autojac")
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    descent = jd.Descent(model, Ramp(), batch_dim=0)
    assert descent.engine is not None
    assert descent.engine.name == "autogram"
    with pytest.warns(UserWarning, match="autogram does not serve this step"):
        step = descent.backward(one(model(torch.randn(5, 4))))
    assert step.engine == "autojac"
    for _ in range(2):
        assert descent.backward(one(model(torch.randn(5, 4)))).engine == "autojac"
    assert not model[0]._forward_hooks, "its hooks stay where it never serves"


def test_not_a_number_is_no_reason_to_refuse_the_model() -> None:
    model, x = nn.Linear(4, 3), torch.randn(5, 4)
    x[2] = math.nan
    engine = Autogram(model, batch_dim=0)
    assert bool(engine.compute_gramian(one(model(x))).isnan().any())
    engine.backward(one(model(x)), Ramp())


def test_batch_statistics_are_served_for_tasks_and_not_updated_twice() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 6))
    model.to(F64)
    x = torch.randn(5, 2, 4, 4, dtype=F64)
    assert_served(model, lambda: model(x).square().mean(0), batch_dim=None)
    model[1].reset_running_stats()
    Autogram(model, batch_dim=None).compute_gramian(model(x).square().mean(0))
    assert model[1].num_batches_tracked == 1


class TestProducts:
    @pytest.mark.parametrize(("k", "n", "length"), [(1, 6, 5), (3, 6, 5), (3, 1, 5), (3, 6, 1)])
    @pytest.mark.parametrize("swapped", [False, True])
    def test_all_forms_are_the_same_gramian_tile_by_tile(
        self, k: int, n: int, length: int, swapped: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("jd_plugin_autogram.factors.product._TILE", 100)
        monkeypatch.setattr("jd_plugin_autogram.factors.product._CHUNK", 50)
        monkeypatch.setattr("jd_plugin_autogram.factors.base._STRIP", 2)
        monkeypatch.setattr("jd_plugin_autogram.factors.product._STRIP", 2)
        weight = torch.zeros((4, 3) if swapped else (3, 4), dtype=F64)
        inputs = torch.randn(n, length, 4, dtype=F64)
        gradients = torch.randn(k, n, length, 3, dtype=F64)
        blocks = torch.einsum("kntp,ntd->nkpd", gradients, inputs)
        expected = (blocks.mT if swapped else blocks).reshape(n * k, -1)
        weights = torch.randn(n * k, dtype=F64)
        product = Product(weight, inputs, gradients, swapped=swapped)
        torch.testing.assert_close(product.rows().flatten(1), expected)
        torch.testing.assert_close(product.ghost(), expected @ expected.T)
        torch.testing.assert_close(product.in_chunks(), expected @ expected.T)
        for _ in range(2):
            torch.testing.assert_close(product.gradient(weights).flatten(), weights @ expected)
            torch.testing.assert_close(product.gramian(), expected @ expected.T)

    def test_the_cheaper_form_is_the_one_with_fewer_operations(self) -> None:
        assert ghost_is_cheaper(1, 64, 1, 784, 1024)
        assert ghost_is_cheaper(1, 16, 4, 4608, 512)
        assert not ghost_is_cheaper(1, 32, 64, 256, 256)
        assert not ghost_is_cheaper(1, 16, 4096, 27, 64)
        assert ghost_is_cheaper(40, 1, 16, 4096, 4096)
        assert not ghost_is_cheaper(3, 1, 4096, 256, 256)


class TestLayouts:
    def test_instances_are_found_as_the_slower_and_as_the_faster_index(self) -> None:
        found = list(candidates((6, 3, 8), 3, range(2)))
        assert found == [Layout(3, 0), Layout(3, 0, minor=True), Layout(3, 1)]
        tensor = torch.arange(6).repeat(8, 1).T
        assert found[0].split(tensor)[1, :, 0].tolist() == [2, 3]
        assert found[1].split(tensor)[1, :, 0].tolist() == [1, 4]

    def test_one_instance_is_everything(self) -> None:
        assert list(candidates((), 1, range(0))) == [Layout(1)]
        assert Layout(1).split(torch.ones(3, 4)).shape == (1, 3, 4)


class TestBudget:
    @pytest.mark.parametrize("memory", ["4", "four GB", -0.5, 4])
    def test_what_is_neither_an_amount_nor_a_share_is_refused(self, memory: float | str) -> None:
        with pytest.raises(jd.ConfigError, match="autogram: memory"):
            jd.engine("autogram", nn.Linear(2, 1), batch_dim=0, memory=memory)


class Scale(nn.Module):
    """A layer of a third party: its input times one number per feature."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors


class ScaleRule(Rule):
    """Its rule, which counts how often it is asked."""

    layers = (Scale,)
    asked = 0

    def rows(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Tensor]:
        type(self).asked += 1
        products = use.gradient_positions() * use.input_positions(use.input)
        return [by_objective(products.sum(2))]


def test_an_installed_distribution_adds_a_rule_for_its_own_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("its_rules")
    module.It = ScaleRule
    install(tmp_path, monkeypatch, "jdframework.gramian_rules", module)
    rules.cache_clear()
    try:
        model = nn.Sequential(Scale(4), nn.Tanh(), nn.Linear(4, 3)).to(F64)
        x = torch.randn(5, 6, 4, dtype=F64)
        for losses in (one, several):
            assert_served(model, lambda losses=losses: losses(model(x)))
        assert_served(model, lambda: several(model(x)).mean(0), batch_dim=None)
        assert ScaleRule.asked > 0
    finally:
        monkeypatch.undo()
        rules.cache_clear()


def test_a_rule_with_neither_rows_nor_pieces_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match="the Gramian rule Empty defines neither rows nor factors"):

        class Empty(Rule):
            layers = (Scale,)


def test_a_broken_rule_of_a_third_party_is_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "jdframework.gramian_rules", ModuleType("has_no_such_class"))
    rules.cache_clear()
    try:
        with pytest.warns(UserWarning, match="'theirs' of third-party cannot be loaded"):
            assert nn.Linear in rules()
        model = nn.Linear(4, 3).to(F64)
        x = torch.randn(5, 4, dtype=F64)
        assert_served(model, lambda: several(model(x)))
    finally:
        monkeypatch.undo()
        rules.cache_clear()
