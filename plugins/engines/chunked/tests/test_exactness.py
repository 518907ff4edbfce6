"""Whatever the chunks and wherever the rows lie, the update is that of the whole Jacobian."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.bases import GramianWeighting

from jd_plugin_chunked import Chunked

from .subjects import METHODS, OneByOne, joined, losses_of, method, odd_model, updated

M = 7
OFFLOADS = ["auto", "host", "disk", None]
CHUNKS = [1, 2, 3, M]


def assert_same(found: Tensor | None, expected: Tensor | None) -> None:
    if found is None or expected is None:
        assert found is expected
        return
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13, equal_nan=True)


def assert_same_update(engine: Any, other: Any, name: str, **settings: Any) -> None:
    model, control = engine.modules[0], other.modules[0]
    found = updated(engine, losses_of(model, M), method(name), **settings)
    expected = updated(other, losses_of(control, M), method(name), **settings)
    assert_same(found.weights, expected.weights)
    assert_same(found.gramian, expected.gramian)
    assert_same(joined(model), joined(control))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("offload", OFFLOADS)
def test_every_chunk_and_place_gives_the_update_of_the_whole_jacobian(
    offload: str | None, chunk: int, name: str
) -> None:
    model = odd_model()
    engine = Chunked(model, memory="300B", offload=offload, parallel_chunk_size=chunk)
    assert_same_update(engine, OneByOne(odd_model()), name)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("offload", OFFLOADS)
def test_the_update_is_autojacs(offload: str | None, name: str) -> None:
    autojac = pytest.importorskip("jd_plugin_autojac").Autojac
    engine = Chunked(odd_model(), memory="300B", offload=offload)
    assert_same_update(engine, autojac(odd_model()), name)


@pytest.mark.parametrize("memory", ["1B", "2KB", "1 GiB", 0.01, None])
@pytest.mark.parametrize("name", METHODS)
def test_the_budget_changes_no_update(memory: str | float | None, name: str) -> None:
    for offload in OFFLOADS:
        engine = Chunked(odd_model(), memory=memory, offload=offload)
        assert_same_update(engine, OneByOne(odd_model()), name)


@pytest.mark.parametrize("offload", OFFLOADS)
def test_jacobian_and_gramian_are_those_of_the_whole(offload: str | None) -> None:
    engine = Chunked(odd_model(), memory="300B", offload=offload, parallel_chunk_size=3)
    other = OneByOne(odd_model())
    losses, same = losses_of(engine.modules[0]), losses_of(other.modules[0])
    assert_same(engine.compute_gramian(losses), other.compute_gramian(same))
    found = engine.compute_jacobian(losses)
    expected = other.compute_jacobian(same)
    assert [block.shape for block in found] == [block.shape for block in expected]
    for block, wanted in zip(found, expected, strict=True):
        assert_same(block, wanted)
    losses.sum().backward()


@pytest.mark.parametrize("form", ["one", "grid", "scalars"])
@pytest.mark.parametrize("offload", OFFLOADS)
def test_losses_of_any_form_are_served(offload: str | None, form: str) -> None:
    forms: dict[str, Any] = {
        "one": lambda losses: losses[0],
        "grid": lambda losses: losses[:6].reshape(2, 3),
        "scalars": lambda losses: [losses[0], losses[1] * losses[2], losses[3].reshape(1)],
    }
    model, control = odd_model(), odd_model()
    engine = Chunked(model, memory="300B", offload=offload, parallel_chunk_size=2)
    found = updated(engine, forms[form](losses_of(model)), method("Gramian weighting"))
    expected = updated(
        OneByOne(control), forms[form](losses_of(control)), method("Gramian weighting")
    )
    assert_same(found.gramian, expected.gramian)
    assert_same(joined(model), joined(control))


class Tasks(nn.Module):
    """A trunk and three heads; the last head's weight is the trunk's, too, if it is tied."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.trunk = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6)).double()
        self.heads = nn.ModuleList(nn.Linear(6, 6).double() for _ in range(3))
        if tied:
            self.heads[2].weight = self.trunk[2].weight

    def step(self) -> tuple[Tensor, list[Tensor]]:
        x = torch.linspace(-2.0, 2.0, 20, dtype=torch.float64).reshape(4, 5).cos()
        features = self.trunk(x)
        return features, [head(features).square().mean() for head in self.heads]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("offload", OFFLOADS)
def test_trunk_and_heads_get_what_the_whole_jacobian_gives(
    offload: str | None, name: str, tied: bool
) -> None:
    model, control = Tasks(tied), Tasks(tied)
    engine = Chunked(model.trunk, memory="300B", offload=offload, parallel_chunk_size=2)
    for subject, server in ((model, engine), (control, OneByOne(control.trunk))):
        features, losses = subject.step()
        server.backward(losses, method(name), features=[features])
    assert_same(joined(model), joined(control))


@pytest.mark.parametrize("name", METHODS)
def test_parameters_outside_of_the_modules_get_the_weighted_gradient(name: str) -> None:
    model, control = Tasks(tied=False), Tasks(tied=False)
    outcomes = []
    for subject, kind in ((model, Chunked), (control, OneByOne)):
        settings = {"memory": "300B", "offload": None} if kind is Chunked else {}
        _, losses = subject.step()
        try:
            outcomes.append(kind(subject.trunk, **settings).backward(losses, method(name)))
        except jd.UnsupportedModelError as error:
            outcomes.append(str(error))
    assert type(outcomes[0]) is type(outcomes[1])
    assert_same(joined(model), joined(control))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("offload", OFFLOADS)
def test_parameters_of_several_dtypes_are_served(offload: str | None, name: str) -> None:
    def mixed() -> nn.Module:
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 5)).append(Cast())

    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(5, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.last(x.double())
            return output

    found = []
    for kind, settings in ((Chunked, {"memory": "200B", "offload": offload}), (OneByOne, {})):
        model = mixed()
        losses = model(torch.linspace(-1, 1, 20).reshape(4, 5)).square().mean(1)
        kind(model, **settings).backward(losses, method(name))
        assert all(p.grad is not None and p.grad.dtype == p.dtype for p in model.parameters())
        found.append(torch.cat([p.grad.double().flatten() for p in model.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("offload", OFFLOADS)
def test_groups_of_parameters_are_treated_apart(offload: str | None, name: str) -> None:
    class Grouped(GramianWeighting):
        """Even blocks by their Gramian, odd ones by another method."""

        def forward(self, gramian: Tensor, /) -> Tensor:
            raise AssertionError("its groups are called instead")

        def bind(self, names: Any, known: Any) -> None: ...

        def groups(self, blocks: int) -> list[tuple[Any, list[int]]]:
            even, odd = list(range(0, blocks, 2)), list(range(1, blocks, 2))
            return [(method("Gramian weighting"), even), (method(name), odd)]

    model, control = odd_model(), odd_model()
    engine = Chunked(model, memory="300B", offload=offload, parallel_chunk_size=2)
    found = updated(engine, losses_of(model), Grouped())
    expected = updated(OneByOne(control), losses_of(control), Grouped())
    assert found.weights is None
    assert_same(found.gramian, expected.gramian)
    assert_same(joined(model), joined(control))


@pytest.mark.parametrize("plugin", ["trimmed-mean", "graddrop"])
@pytest.mark.parametrize("offload", OFFLOADS)
def test_the_published_column_wise_aggregators_are_the_same_in_blocks(
    offload: str | None, plugin: str
) -> None:
    pytest.importorskip(f"jd_plugin_{plugin.replace('-', '_')}")
    settings: dict[str, Any] = {"trim_number": 2} if plugin == "trimmed-mean" else {"seed": 5}
    model, control = odd_model(), odd_model()
    found, expected = (jd.aggregator(plugin, **settings) for _ in range(2))
    assert found.column_wise
    engine = Chunked(model, memory="300B", offload=offload)
    for _ in range(2):
        engine.backward(losses_of(model), found)
        OneByOne(control).backward(losses_of(control), expected)
    assert_same(joined(model), joined(control))


def test_where_vmap_cannot_run_rows_are_taken_one_by_one_with_one_warning() -> None:
    torch.compiler.reset()
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    compiled = torch.compile(model, backend="aot_eager")
    engine = Chunked(model, offload="host", parallel_chunk_size=3)
    with pytest.warns(UserWarning, match="chunked differentiates one objective at a time"):
        gramian = engine.compute_gramian(losses_of(compiled))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.compute_gramian(losses_of(compiled))
    assert_same(gramian, OneByOne(model).compute_gramian(losses_of(model)))


def test_retained_gradients_stay_as_they_were() -> None:
    model = odd_model()
    hidden = model.first(torch.ones(3, 5, dtype=torch.float64)).tanh()
    hidden.retain_grad()
    engine = Chunked(model, offload="host", parallel_chunk_size=1)
    engine.linearize([hidden.square().sum(1)], [hidden]).jacobian()
    assert hidden.grad is None


def test_losses_of_another_model_are_refused() -> None:
    engine = Chunked(nn.Linear(2, 2))
    losses = losses_of(odd_model())
    with pytest.raises(ValueError, match="depend on no parameter"):
        engine.compute_gramian(losses)
    with pytest.raises(ValueError, match="depend on no parameter"):
        engine.backward(losses, method("Gramian weighting"))


def test_jd_descent_serves_every_method_with_it() -> None:
    for name in METHODS:
        model, control = odd_model(), odd_model()
        engine = {"name": "chunked", "memory": "300B", "offload": "disk"}
        step = jd.Descent(model, method(name), engine=engine).backward(losses_of(model))
        OneByOne(control).backward(losses_of(control), method(name))
        assert step.engine == "chunked"
        assert_same(joined(model), joined(control))
