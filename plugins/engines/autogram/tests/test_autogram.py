"""The layer-by-layer Gramian is that of the Jacobian, or the model is refused."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import jdframework as jd
from jdframework.autograd_graph import gradients
from jdframework.bases import GramianWeighting
from jdframework.testing import EngineSuite
from jdframework.testing.architectures import ARCHITECTURES, Architecture

from jd_plugin_autogram import Autogram
from jd_plugin_autogram.choice import ghost_is_cheaper
from jd_plugin_autogram.rules import Rule, Use, rules
from jd_plugin_autogram.rules.products import Ghost, outer_rows

F64 = torch.float64


class TestContract(EngineSuite):
    spec = Autogram


class Ramp(GramianWeighting):
    """Weights 1, 2, 3 and so on, so that these tests need no other plugin."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return torch.arange(1.0, 1.0 + len(gramian)).to(gramian)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def reference(losses: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The Gramian by one ordinary backward pass per objective."""
    rows = []
    for loss in losses.flatten().unbind():
        found = gradients([loss], parameters, None, retain_graph=True)
        pairs = zip(found, parameters, strict=True)
        rows.append(
            torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
        )
    jacobian = torch.stack(rows).double()
    return jacobian @ jacobian.T


def assert_served(
    model: nn.Module,
    losses: Callable[[], Tensor],
    tolerance: float = 1e-10,
    batch_dim: int | None = 0,
) -> None:
    """The Gramian, the identity and the fused update are those of autograd."""
    engine = Autogram(model, batch_dim=batch_dim)
    expected = reference(losses(), list(model.parameters()))
    given = losses()
    found = engine.compute_gramian(given)
    torch.testing.assert_close(
        found.double(), expected, rtol=0, atol=tolerance * float(expected.max())
    )
    assert engine.verify(given) <= 10 * tolerance
    weights = engine.backward(given, Ramp())
    assert weights is not None
    updates = [p.grad for p in model.parameters()]
    model.zero_grad()
    engine.close()
    given = losses()
    given.backward(weights.reshape(given.shape).to(given.dtype))
    wanted = [p.grad for p in model.parameters()]
    assert [g is None for g in updates] == [g is None for g in wanted]
    update, gradient = joined(updates), joined(wanted)
    atol = tolerance * float(gradient.abs().max())
    torch.testing.assert_close(update, gradient, rtol=0, atol=atol)
    model.zero_grad()


def joined(tensors: Sequence[Tensor | None]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors if tensor is not None])


def instances(output: Tensor) -> Tensor:
    return (output - 0.5).flatten(1).square().mean(1)


def grid(output: Tensor) -> Tensor:
    return output.flatten(1)[:, :3].square() + output.flatten(1).sin().mean(1, keepdim=True)


SHAPES = {"one per instance": instances, "several per instance": grid}


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    "architecture", [a for a in ARCHITECTURES.values() if a.per_instance], ids=str
)
def test_architectures_are_served(architecture: Architecture, dtype: torch.dtype) -> None:
    model = architecture.model(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    assert_served(model, lambda: architecture.losses(model), tolerance)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (5, 4)),
    "linear without bias": (lambda: nn.Linear(4, 3, bias=False), (5, 4)),
    "linear over a sequence": (lambda: nn.Linear(4, 3), (5, 6, 4)),
    "linear over two dimensions": (lambda: nn.Linear(4, 3), (5, 2, 3, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2), (5, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 8, 3), (5, 4, 8, 8)),
    "conv2d strided": (lambda: nn.Conv2d(4, 8, 3, padding=1, stride=2), (5, 4, 8, 8)),
    "conv2d dilated": (lambda: nn.Conv2d(4, 8, (3, 2), dilation=2, groups=2), (5, 4, 8, 8)),
    "conv2d depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False), (5, 4, 8, 8)),
    "conv2d 1x1": (lambda: nn.Conv2d(4, 8, 1), (5, 4, 8, 8)),
    "conv2d whole": (lambda: nn.Conv2d(4, 8, 8), (5, 4, 8, 8)),
    "conv2d same": (lambda: nn.Conv2d(4, 8, (1, 3), padding="same"), (5, 4, 8, 8)),
    "conv2d reflect": (
        lambda: nn.Conv2d(4, 8, 3, padding="same", padding_mode="reflect"),
        (5, 4, 8, 8),
    ),
    "conv2d circular": (
        lambda: nn.Conv2d(4, 8, 3, padding=2, padding_mode="circular"),
        (5, 4, 8, 8),
    ),
    "conv2d replicate": (
        lambda: nn.Conv2d(4, 8, 3, padding=1, padding_mode="replicate"),
        (5, 4, 8, 8),
    ),
    "conv3d": (lambda: nn.Conv3d(2, 3, (1, 2, 3), padding=1), (3, 2, 4, 5, 4)),
    "transposed conv1d": (
        lambda: nn.ConvTranspose1d(4, 6, 3, stride=3, padding=1, output_padding=2),
        (5, 4, 9),
    ),
    "transposed conv2d": (lambda: nn.ConvTranspose2d(4, 8, 3), (5, 4, 5, 6)),
    "transposed conv2d grouped": (
        lambda: nn.ConvTranspose2d(4, 8, 3, stride=2, dilation=2, groups=2, bias=False),
        (5, 4, 5, 6),
    ),
    "transposed conv3d": (lambda: nn.ConvTranspose3d(2, 3, 2, stride=2), (3, 2, 3, 3, 3)),
    "layer norm": (lambda: nn.LayerNorm((3, 5)), (4, 2, 3, 5)),
    "rms norm": (lambda: nn.RMSNorm(5), (4, 2, 5)),
    "group norm": (lambda: nn.GroupNorm(2, 6), (4, 6, 3)),
    "group norm without positions": (lambda: nn.GroupNorm(2, 6), (4, 6)),
    "instance norm": (lambda: nn.InstanceNorm2d(3, affine=True), (4, 3, 5, 5)),
    "attention": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=True),
        (4, 3, 8),
    ),
    "no rule of its own": (lambda: nn.Sequential(nn.PReLU(3), nn.Linear(5, 5)), (4, 3, 5)),
    "batch norm at evaluation": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval(),
        (5, 4),
    ),
    "in-place activations": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)),
        (5, 4),
    ),
}


@pytest.mark.parametrize("losses", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("layer", LAYERS)
def test_layers_are_served_for_instances(layer: str, losses: Callable[[Tensor], Tensor]) -> None:
    make, shape = LAYERS[layer]
    model, x = make().to(F64), torch.randn(shape, dtype=F64)
    assert_served(model, lambda: losses(model(x)))


def tasks(output: Tensor) -> Tensor:
    columns = (output - 0.5).flatten(1)
    return torch.stack([columns[:, task::3].square().mean() for task in range(3)])


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_are_served_for_tasks(layer: str) -> None:
    make, shape = LAYERS[layer]
    model, x = make().to(F64), torch.randn(shape, dtype=F64)
    assert_served(model, lambda: tasks(model(x)), batch_dim=None)


def test_batch_statistics_are_served_for_tasks_and_not_updated_twice() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 6))
    model.to(F64)
    x = torch.randn(5, 2, 4, 4, dtype=F64)
    assert_served(model, lambda: tasks(model(x)), batch_dim=None)
    model[1].reset_running_stats()
    losses = tasks(model(x))
    Autogram(model, batch_dim=None).compute_gramian(losses)
    assert model[1].num_batches_tracked == 1


@pytest.mark.parametrize("batch_dim", [None, 0])
@pytest.mark.parametrize("padding", [None, 0])
def test_embeddings_are_served(padding: int | None, batch_dim: int | None) -> None:
    model = nn.Sequential(nn.Embedding(7, 3, padding_idx=padding), nn.Flatten(), nn.Linear(12, 2))
    model.to(F64)
    tokens = torch.tensor([[0, 1, 1, 2], [3, 3, 3, 0], [6, 0, 0, 0]])
    assert_served(model, lambda: instances(model(tokens)), batch_dim=batch_dim)


def test_flattened_positions_are_told_apart_by_instance() -> None:
    model, x = nn.Linear(4, 3).to(F64), torch.randn(5, 6, 4, dtype=F64)
    assert_served(model, lambda: instances(model(x.reshape(30, 4)).reshape(5, 18)))


def test_two_modules_that_share_a_weight_are_counted_exactly() -> None:
    first, second = nn.Linear(4, 4).to(F64), nn.Linear(4, 4).to(F64)
    second.weight = first.weight
    model, x = nn.Sequential(first, nn.Tanh(), second), torch.randn(5, 4, dtype=F64)
    assert_served(model, lambda: instances(model(x)))


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).to(F64)
    model[0].weight.requires_grad_(False)
    x = torch.randn(5, 4, dtype=F64)
    wanted = [p for p in model.parameters() if p.requires_grad]
    engine = Autogram(model, batch_dim=0)
    torch.testing.assert_close(
        engine.compute_gramian(instances(model(x))), reference(instances(model(x)), wanted)
    )
    engine.backward(instances(model(x)), Ramp())
    assert model[0].weight.grad is None


def test_the_gramian_may_be_of_a_part_and_the_gradient_of_all() -> None:
    trunk, head = nn.Linear(4, 4).to(F64), nn.Linear(4, 3).to(F64)
    x = torch.randn(5, 4, dtype=F64)
    engine = Autogram(trunk, batch_dim=0)
    gramian = engine.compute_gramian(instances(head(trunk(x).tanh())))
    torch.testing.assert_close(
        gramian, reference(instances(head(trunk(x).tanh())), list(trunk.parameters()))
    )
    weights = engine.backward(instances(head(trunk(x).tanh())), Ramp())
    found = trunk.weight.grad.clone(), head.weight.grad.clone()
    trunk.zero_grad()
    head.zero_grad()
    instances(head(trunk(x).tanh())).backward(weights)
    torch.testing.assert_close(found, (trunk.weight.grad, head.weight.grad))


def test_checkpointed_activations_are_served() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).to(F64)
    x = torch.randn(5, 4, dtype=F64)

    def losses() -> Tensor:
        return instances(model[2](checkpoint(model[:2], x, use_reentrant=False)))

    assert_served(model, losses)


def test_a_model_compiled_before_is_served() -> None:
    plain = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    compiled, x = torch.compile(plain, backend="aot_eager"), torch.randn(5, 4)
    assert_served(plain, lambda: instances(compiled(x)), 1e-5)


def test_autocast_gives_the_gramian_of_the_autocast_model() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2)), torch.randn(6, 8)

    def losses() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return instances(model(x).float())

    engine = Autogram(model, batch_dim=0, verify_first=False)
    found = engine.compute_gramian(losses())
    expected = reference(losses(), list(model.parameters()))
    torch.testing.assert_close(
        found.double(), expected, rtol=3e-2, atol=3e-2 * float(expected.max())
    )


def test_passes_in_between_change_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).to(F64)
    x = torch.randn(5, 4, dtype=F64)
    expected = reference(instances(model(x)), list(model.parameters()))
    engine = Autogram(model, batch_dim=0)
    losses = instances(model(x))
    with torch.no_grad():
        model(torch.randn(9, 4, dtype=F64))
    model(torch.randn(7, 4, dtype=F64))
    torch.testing.assert_close(engine.compute_gramian(losses), expected)


def test_several_forward_passes_may_meet_in_one_loss() -> None:
    model = nn.Linear(4, 3).to(F64)
    x, y = torch.randn(5, 4, dtype=F64), torch.randn(5, 4, dtype=F64)
    assert_served(model, lambda: instances(model(x)) + instances(model(y).exp()))


def test_two_engines_on_one_model_do_not_meet() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).to(F64)
    x = torch.randn(5, 4, dtype=F64)
    whole, part = Autogram(model, batch_dim=0), Autogram(model[2], batch_dim=0)
    losses = instances(model(x))
    first = whole.compute_gramian(losses)
    second = part.compute_gramian(losses)
    torch.testing.assert_close(first, reference(losses, list(model.parameters())))
    torch.testing.assert_close(second, reference(losses, list(model[2].parameters())))


class TestRefused:
    def losses_of(
        self, model: nn.Module, shape: tuple[int, ...] = (5, 4)
    ) -> tuple[Autogram, Tensor]:
        engine = Autogram(model, batch_dim=0)
        return engine, instances(model(torch.randn(shape)))

    def test_batch_statistics(self) -> None:
        engine, losses = self.losses_of(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
        with pytest.raises(jd.UnsupportedModelError, match=r"batch normalisation.*\.eval\(\)"):
            engine.backward(losses, Ramp())

    def test_losses_that_mix_instances(self) -> None:
        model, x = nn.Linear(4, 3), torch.randn(5, 4)
        engine = Autogram(model, batch_dim=0)
        output = model(x)
        with pytest.raises(jd.UnsupportedModelError, match="fails uᵀGu"):
            engine.backward(instances(output - output.mean(0)), Ramp())
        assert model.weight.grad is None

    def test_instances_along_another_dimension(self) -> None:
        with pytest.raises(jd.UnsupportedModelError, match="along the first dimension"):
            Autogram(nn.Linear(4, 3), batch_dim=1)

    def test_separate_scalars(self) -> None:
        engine, losses = self.losses_of(nn.Linear(4, 3))
        with pytest.raises(jd.UnsupportedModelError, match=r"torch\.stack"):
            engine.backward(list(losses.unbind()), Ramp())

    def test_an_input_changed_in_place_afterwards(self) -> None:
        model, x = nn.LayerNorm(4, bias=False), torch.randn(5, 4)
        engine = Autogram(model, batch_dim=0)
        losses = model(x).sum(1)
        x.add_(1.0)
        with pytest.raises(jd.UnsupportedModelError, match="changed in place"):
            engine.backward(losses, Ramp())

    def test_a_layer_that_draws_random_numbers_and_has_no_rule(self) -> None:
        engine, losses = self.losses_of(
            nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True), (4, 3, 8)
        )
        with pytest.raises(jd.UnsupportedModelError, match=r"'self_attn'.*random numbers"):
            engine.backward(losses, Ramp())

    def test_methods_that_need_the_jacobian(self) -> None:
        class Columns(jd.bases.Aggregator):
            def forward(self, jacobian: Tensor, /) -> Tensor:
                return jacobian.amax(0)

        engine, losses = self.losses_of(nn.Linear(4, 3))
        with pytest.raises(jd.UnsupportedModelError, match="needs the Jacobian"):
            engine.backward(losses, Columns())


def test_dropout_is_served_as_it_was_drawn() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).to(F64)
    engine = Autogram(model, batch_dim=0)
    losses = instances(model(torch.randn(5, 4, dtype=F64)))
    torch.testing.assert_close(
        engine.compute_gramian(losses), reference(losses, list(model.parameters()))
    )


def test_descent_goes_on_with_another_engine_where_this_one_refuses() -> None:
    pytest.importorskip("jd_plugin_autojac")
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    descent = jd.Descent(model, Ramp(), batch_dim=0)
    assert descent.engine is not None
    assert descent.engine.name == "autogram"
    step = descent.backward(instances(model(torch.randn(5, 4))))
    assert step.engine == "autojac"
    assert not model[0]._forward_hooks


class TestCleanUp:
    def test_no_hook_is_left_after_close_or_garbage_collection(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
        for end in (Autogram.close, lambda engine: None):
            engine = Autogram(model, batch_dim=0)
            assert model[0]._forward_hooks
            end(engine)
            del engine
            gc.collect()
            assert not model[0]._forward_hooks

    def test_the_model_can_be_copied_and_pickled_under_hooks(self) -> None:
        model, x = nn.Linear(4, 3), torch.randn(5, 4)
        engine = Autogram(model, batch_dim=0)
        pickled = pickle.loads(pickle.dumps(model))  # noqa: S301  # our own bytes
        for twin in (copy.deepcopy(model), pickled):
            torch.testing.assert_close(twin(x), model(x))
        engine.backward(instances(model(x)), Ramp())
        assert model.weight.grad is not None

    def test_nothing_of_a_step_is_kept_alive(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
        engine = Autogram(model, batch_dim=0)

        def step(backward: bool) -> weakref.ref[Tensor]:
            hidden = model[:2](torch.randn(5, 4))
            losses = instances(model[2](hidden))
            if backward:
                engine.backward(losses, Ramp())
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
        engine.backward(instances(model(x)), Ramp())
        losses = instances(model(x))
        engine.backward(losses, Ramp(), retain_graph=True)
        engine.backward(losses, Ramp())
        with pytest.raises(RuntimeError, match="second time"):
            losses.sum().backward()

    def test_an_exception_in_the_middle_leaves_the_next_step_right(self) -> None:
        class Failing(GramianWeighting):
            def forward(self, gramian: Tensor, /) -> Tensor:
                raise RuntimeError("no luck")

        model, x = nn.Linear(4, 3).to(F64), torch.randn(5, 4, dtype=F64)
        engine = Autogram(model, batch_dim=0)
        with pytest.raises(RuntimeError, match="no luck"):
            engine.backward(instances(model(x)), Failing())
        assert model.weight.grad is None
        losses = instances(model(x))
        torch.testing.assert_close(
            engine.compute_gramian(losses), reference(losses, list(model.parameters()))
        )


def test_ghost_and_rows_are_the_same_gramian_tile_by_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jd_plugin_autogram.rules.products._TILE", 100)
    weight = torch.zeros(3, 4, dtype=F64)
    inputs, outputs = torch.randn(6, 5, 4, dtype=F64), torch.randn(6, 5, 3, dtype=F64)
    rows = outer_rows(weight, inputs, outputs).flatten(1)
    torch.testing.assert_close(Ghost(weight, inputs, outputs).gramian(), rows @ rows.T)


def test_the_cheaper_form_is_the_one_with_fewer_operations() -> None:
    for m, length, d, p in [(64, 1, 784, 1024), (32, 64, 256, 256), (16, 4096, 27, 64)]:
        ghost = m**2 * length**2 * (d + p)
        rows = m * length * d * p + m**2 * d * p
        assert ghost_is_cheaper(m, length, d, p) == (ghost <= rows)


def test_not_a_number_is_no_reason_to_refuse_the_model() -> None:
    model = nn.Linear(4, 3)
    x = torch.randn(5, 4)
    x[2] = math.nan
    gramian: list[Tensor] = []
    engine = Autogram(model, batch_dim=0)
    engine.update(instances(model(x)), Ramp(), check=gramian.append)
    assert bool(gramian[0].isnan().any())


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
        return [(use.gradient * use.inputs[0]).reshape(len(use.gradient), -1, 4).sum(1)]


def test_an_installed_distribution_adds_a_rule_for_its_own_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "third_party-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[jdframework.gramian_rules]\nscale = its_rules:It\n"
    )
    module = ModuleType("its_rules")
    module.It = ScaleRule  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "its_rules", module)
    monkeypatch.syspath_prepend(tmp_path)
    rules.cache_clear()
    try:
        model = nn.Sequential(Scale(4), nn.Tanh(), nn.Linear(4, 3)).to(F64)
        x = torch.randn(5, 6, 4, dtype=F64)
        assert_served(model, lambda: instances(model(x)))
        assert ScaleRule.asked > 0
    finally:
        monkeypatch.undo()
        rules.cache_clear()
