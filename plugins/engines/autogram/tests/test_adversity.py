"""Whatever is done to the model between its forward pass and the step: right, or refused."""

from __future__ import annotations

import gc
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._functorch.config
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, rnn
from torch.utils.checkpoint import checkpoint

import jdframework as jd
from jdframework.bases import GramianWeighting

from jd_plugin_autogram import Autogram
from jd_plugin_autogram.layout import Layout, agrees
from jd_plugin_autogram.objectives import Instances

from .truth import (
    F64,
    Ramp,
    assert_gradient,
    assert_served,
    grid,
    joined,
    one,
    reference,
    several,
    tasks,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def mlp(dtype: torch.dtype = F64) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def batch(*shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(shape or (5, 4), dtype=dtype)


class TestRandomness:
    """What a forward pass drew stays drawn: the graph knows it."""

    @pytest.mark.parametrize(
        "make",
        [
            lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3)),
            lambda: nn.TransformerEncoderLayer(8, 2, 12, 0.3, batch_first=True),
            lambda: nn.MultiheadAttention(8, 2, 0.3, batch_first=True),
            lambda: nn.LSTM(8, 4, 2, dropout=0.4, batch_first=True),
            lambda: Noisy(),  # noqa: PLW0108  # the class is defined further down
        ],
        ids=["dropout", "encoder", "attention", "lstm", "own layer"],
    )
    @pytest.mark.parametrize("batch_dim", [0, None])
    def test_random_layers_are_served_as_they_were_drawn(
        self, make: Callable[[], nn.Module], batch_dim: int | None
    ) -> None:
        model, x = make().to(F64), batch(4, 6, 8)

        def losses() -> Tensor:
            torch.manual_seed(3)
            output = model(x, x, x) if isinstance(model, nn.MultiheadAttention) else model(x)
            found = output[0] if isinstance(output, tuple) else output
            return one(found) if batch_dim == 0 else tasks(found)

        assert_served(model, losses, batch_dim=batch_dim)


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x * self.factors.exp(), 0.5)


def pooled(hidden: Tensor, lengths: tuple[int, ...], way: str) -> Tensor:
    """The sums of stretches, ``[len(lengths), features]``."""
    owners = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    if way == "index_add":
        sums = hidden.new_zeros(len(lengths), hidden.shape[1])
        return sums.index_add(0, owners, hidden)
    if way == "split":
        return torch.stack([part.sum(0) for part in hidden.split(list(lengths))])
    if way == "slice":
        ends = torch.tensor(lengths).cumsum(0).tolist()
        parts = [hidden[end - size : end] for end, size in zip(ends, lengths, strict=True)]
        return torch.stack([part.sum(0) for part in parts])
    chosen = functional.one_hot(owners, len(lengths)).T.to(hidden)
    if way == "einsum":
        return torch.einsum("ij,jd->id", chosen, hidden)
    return torch.sparse.mm(chosen.to_sparse(), hidden) if way == "sparse" else chosen @ hidden


def assert_right_or_refused(engine: Autogram, losses: Callable[[], Tensor]) -> None:
    expected = reference(losses(), engine.parameters)
    try:
        found = engine.compute_gramian(losses())
    except jd.UnsupportedModelError:
        return
    torch.testing.assert_close(found, expected)


class Remembering(nn.Module):
    """Looks things up in what it is given, which all instances share."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.randn(4, 4))
        self.sharpness = nn.Parameter(torch.tensor(1.3))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return (self.sharpness * x @ self.keys @ memory.T).softmax(-1) @ memory


class Centred(nn.Module):
    """Takes the mean of the batch off."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) * self.factors


class TestState:
    """Layers that remember, and layers that were changed."""

    def test_a_layer_that_counts_its_calls_is_served_and_not_called_again(self) -> None:
        class Counting(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("calls", torch.zeros(()))
                self.factors = nn.Parameter(torch.rand(4))

            def forward(self, x: Tensor) -> Tensor:
                self.calls += 1
                return x * self.factors.exp() * self.calls

        model, x = Counting().to(F64), batch()
        engine = Autogram(model, batch_dim=0)
        losses = one(model(x))
        expected = reference(losses, list(model.parameters()))
        torch.testing.assert_close(engine.compute_gramian(losses), expected)
        assert model.calls == 1

    def test_running_statistics_that_changed_after_the_call_count_as_autograd_counts_them(
        self,
    ) -> None:
        model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)).to(F64).eval()
        engine, x = Autogram(model, batch_dim=0), batch()
        losses = one(model(x))
        with torch.no_grad():
            model.train()(batch(9, 4) + 5.0)
            model.eval()
        # Autograd keeps no copy of them, and goes by the new ones.
        expected = reference(losses, list(model.parameters()))
        torch.testing.assert_close(engine.compute_gramian(losses), expected)

    def test_parameters_that_changed_after_the_call_raise_or_do_not_matter(self) -> None:
        model, x = nn.Sequential(nn.PReLU(4), nn.Linear(4, 3)).to(F64), batch()
        engine = Autogram(model, batch_dim=0)
        losses = one(model(x))
        with torch.no_grad():
            model[0].weight.mul_(2.0)
        with pytest.raises((RuntimeError, jd.UnsupportedModelError)):
            engine.backward(losses, Ramp())
        assert all(p.grad is None for p in model.parameters())

    def test_a_replaced_parameter_is_not_taken_for_the_one_that_was_used(self) -> None:
        model, x = mlp(), batch()
        engine = Autogram(model, batch_dim=0)
        losses = one(model(x))
        model[0].weight = nn.Parameter(torch.ones(5, 4, dtype=F64))
        expected = reference(losses, engine.parameters)
        torch.testing.assert_close(engine.compute_gramian(losses), expected)

    def test_an_input_changed_in_place_afterwards_is_refused(self) -> None:
        model, x = nn.LayerNorm(4, bias=False), batch(dtype=torch.float32)
        engine = Autogram(model, batch_dim=0)
        losses = model(x).sum(1)
        x.add_(1.0)
        with pytest.raises(jd.UnsupportedModelError, match="changed in place"):
            engine.backward(losses, Ramp())

    def test_frozen_layers_between_trained_ones(self) -> None:
        model, x = mlp(), batch()
        model.insert(1, nn.Linear(5, 5).to(F64).requires_grad_(False))
        assert_served(model, lambda: one(model(x)))

    def test_parameters_frozen_after_the_forward_pass_are_left_out(self) -> None:
        model, x = mlp(), batch()
        engine = Autogram(model, batch_dim=0)
        losses = one(model(x))
        model[0].weight.requires_grad_(False)
        wanted = [p for p in model.parameters() if p.requires_grad]
        torch.testing.assert_close(engine.compute_gramian(losses), reference(losses, wanted))
        engine.backward(losses, Ramp())
        assert model[0].weight.grad is None

    def test_layers_that_did_not_exist_when_the_engine_was_made(self) -> None:
        model, x = mlp(), batch()
        engine = Autogram(model, batch_dim=0)
        model.append(nn.Linear(3, 2).to(F64))
        losses = one(model(x))
        expected = reference(losses, list(model.parameters()))
        torch.testing.assert_close(engine.compute_gramian(losses), expected)

    def test_lazy_layers(self) -> None:
        model, x = nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(3)), batch()
        engine = Autogram(model, batch_dim=0)
        model(x.float())
        losses = one(model(x.float()))
        expected = reference(losses, list(model.parameters()))
        torch.testing.assert_close(
            engine.compute_gramian(losses).double(), expected, rtol=1e-5, atol=1e-6
        )


class TestParametrized:
    @pytest.mark.parametrize("batch_dim", [0, None])
    @pytest.mark.parametrize(
        "wrap",
        [
            parametrizations.weight_norm,
            parametrizations.spectral_norm,
            parametrizations.orthogonal,
            nn.utils.spectral_norm,
        ],
        ids=["weight norm", "spectral norm", "orthogonal", "spectral norm by hooks"],
    )
    def test_computed_weights(
        self, wrap: Callable[[nn.Module], nn.Module], batch_dim: int | None
    ) -> None:
        model, x = nn.Sequential(wrap(nn.Linear(4, 3)), nn.Tanh(), nn.Linear(3, 3)).to(F64), batch()
        model(x)
        model.eval()
        loss = one if batch_dim == 0 else tasks
        assert_served(model, lambda: loss(model(x)), batch_dim=batch_dim)

    def test_pruned_weights(self) -> None:
        from torch.nn.utils import prune

        model, x = mlp(), batch()
        prune.random_unstructured(model[0], "weight", 0.5)
        assert_served(model, lambda: one(model(x)))

    def test_functional_call_with_other_parameters(self) -> None:
        model, x = mlp(), batch()
        engine = Autogram(model, batch_dim=0)
        doubled = {name: 2.0 * p for name, p in model.named_parameters()}
        losses = one(torch.func.functional_call(model, doubled, (x,)))
        expected = reference(losses, list(model.parameters()))
        torch.testing.assert_close(engine.compute_gramian(losses), expected)


class TestHooksOfTheUser:
    def test_hooks_that_change_inputs_and_outputs(self) -> None:
        model, x = mlp(), batch()
        model[0].register_forward_hook(lambda layer, args, output: output * 3.0)
        model[2].register_forward_pre_hook(lambda layer, args: (args[0].cos(),))
        assert_served(model, lambda: one(model(x)))

    def test_hooks_that_change_outputs_registered_later(self) -> None:
        model, x = mlp(), batch()
        engine = Autogram(model, batch_dim=0)
        model[0].register_forward_hook(lambda layer, args, output: output * 3.0)
        losses = one(model(x))
        expected = reference(losses, list(model.parameters()))
        torch.testing.assert_close(engine.compute_gramian(losses), expected)

    def test_a_hook_put_before_ours_is_found_out(self) -> None:
        model, x = mlp(), batch()
        engine = Autogram(model, batch_dim=0)
        model[0].register_forward_hook(lambda layer, args, output: output * 3.0, prepend=True)
        with pytest.raises(jd.UnsupportedModelError, match="fails uᵀGu"):
            engine.backward(one(model(x)), Ramp())
        assert all(p.grad is None for p in model.parameters())

    def test_hooks_on_tensors_that_scale_gradients(self) -> None:
        model, x = mlp(), batch()

        def losses() -> Tensor:
            hidden = model[0](x)
            hidden.register_hook(lambda gradient: gradient * 2.0)
            return one(model[2](hidden.tanh()))

        assert_served(model, losses)

    @pytest.mark.parametrize("batch_dim", [0, None])
    def test_hooks_on_parameters_see_the_update_once_a_step(self, batch_dim: int | None) -> None:
        model, x = mlp(), batch()
        loss = one if batch_dim == 0 else tasks
        engine = Autogram(model, batch_dim=batch_dim)
        expected = reference(loss(model(x)), list(model.parameters()))
        seen: list[Tensor] = []
        model[0].weight.register_hook(lambda gradient: gradient * torch.arange(4))
        model[0].weight.register_hook(seen.append)
        model[0].weight.register_hook(lambda gradient: gradient + 1.0)
        model[2].bias.register_hook(seen.append)
        for step in range(1, 4):
            torch.testing.assert_close(engine.compute_gramian(loss(model(x))), expected)
            assert engine.verify(loss(model(x))) < 1e-9
            weights = engine.backward(loss(model(x)), Ramp())
            assert weights is not None
            assert len(seen) == 2
            assert_gradient(model, lambda: loss(model(x)), weights, 1e-10, f"step {step}")
            seen.clear()


class TestPasses:
    def test_passes_in_between_change_nothing(self) -> None:
        model, x = mlp(), batch()
        expected = reference(one(model(x)), list(model.parameters()))
        engine = Autogram(model, batch_dim=0)
        losses = one(model(x))
        with torch.no_grad():
            model(batch(9, 4))
        with torch.inference_mode():
            model.eval()(batch(2, 4))
        model.train()(batch(7, 4))
        torch.testing.assert_close(engine.compute_gramian(losses), expected)

    def test_several_forward_passes_may_meet_in_one_loss(self) -> None:
        model, x, y = mlp(), batch(), batch()
        assert_served(model, lambda: one(model(x)) + one(model(y).exp()))

    def test_two_batches_may_be_joined_and_split(self) -> None:
        model, x, y = mlp(), batch(), batch()
        assert_served(model, lambda: one(model(torch.cat([x, y])).reshape(2, 5, 3).movedim(0, 1)))

    def test_losses_without_a_layer_in_common(self) -> None:
        model, x = nn.ModuleList(nn.Linear(4, 3) for _ in range(3)).to(F64), batch()
        assert_served(
            model, lambda: torch.stack([one(layer(x)).mean() for layer in model]), batch_dim=None
        )

    def test_instances_that_no_parameter_matters_to(self) -> None:
        model, x = mlp(), batch()
        mask = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0], dtype=F64)
        assert_served(model, lambda: one(model(x)) * mask)

    def test_one_instance_then_many(self) -> None:
        model = nn.TransformerEncoderLayer(8, 2, 12, 0.0).to(F64)
        engine = Autogram(model, batch_dim=0)
        for n, length in [(1, 3), (2, 1), (2, 6), (3, 6), (6, 3), (1, 6)]:
            x = batch(length, n, 8)
            losses = one(model(x).transpose(0, 1))
            expected = reference(losses, list(model.parameters()))
            torch.testing.assert_close(engine.compute_gramian(losses), expected)

    def test_what_instances_share_may_be_as_long_as_the_batch(self) -> None:
        model = nn.ModuleList([nn.Linear(4, 4), Remembering(), nn.Linear(4, 3)]).to(F64)
        memory = batch(5, 4)
        engine = Autogram(model, batch_dim=0)
        for n, loss in [(7, one), (5, one), (5, several), (6, several)]:
            x = batch(n, 2, 4)

            def losses(x: Tensor = x, loss: Callable[[Tensor], Tensor] = loss) -> Tensor:
                hidden = model[1](model[0](x), memory)
                return loss(model[2](hidden).mean(1))

            expected = reference(losses(), list(model.parameters()))
            torch.testing.assert_close(engine.compute_gramian(losses()), expected)
            assert_served(model, losses)

    @pytest.mark.parametrize("loss", [one, several])
    def test_what_instances_share_where_they_are_the_faster_index(
        self, loss: Callable[[Tensor], Tensor]
    ) -> None:
        model = nn.ModuleList([nn.Linear(4, 4), Remembering(), nn.Linear(4, 3)]).to(F64)
        memory, x = batch(15, 4), batch(3, 5, 4)

        def losses() -> Tensor:
            hidden = model[1](model[0](x).flatten(0, 1), memory).reshape(3, 5, 4)
            return loss(model[2](hidden).mean(0))

        assert_served(model, losses)

    @pytest.mark.parametrize("pool", ["index_add", "mm", "einsum", "sparse", "split", "slice"])
    def test_instances_that_lay_evenly_at_first_and_then_do_not(self, pool: str) -> None:
        layers = nn.ModuleList([nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)]).to(F64)
        engine = Autogram(layers, batch_dim=0)
        for lengths in [(3, 3, 3, 3), (4, 3, 3, 2), (1, 6, 3, 2), (2, 2, 2, 2)]:
            x = batch(sum(lengths), 4)

            def losses(x: Tensor = x, lengths: tuple[int, ...] = lengths) -> Tensor:
                hidden = layers[1](layers[0](x).tanh()).tanh()
                return one(layers[2](pooled(hidden, lengths, pool)))

            assert_right_or_refused(engine, losses)

    @pytest.mark.parametrize("pool", ["index_add", "slice"])
    @pytest.mark.parametrize("weight", [1e-1, 1e-3, 1e-5])
    def test_a_row_that_hardly_counts_is_not_left_to_another_instance(
        self, weight: float, pool: str
    ) -> None:
        layers = nn.ModuleList([nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)]).to(F64)
        engine, factors = Autogram(layers, batch_dim=0), torch.ones(12, 1, dtype=F64)
        factors[3] = weight
        for lengths in [(3, 3, 3, 3), (4, 2, 3, 3)]:
            x = batch(12, 4)

            def losses(x: Tensor = x, lengths: tuple[int, ...] = lengths) -> Tensor:
                hidden = layers[1](layers[0](x).tanh()).tanh() * factors
                return one(layers[2](pooled(hidden, lengths, pool)))

            assert_right_or_refused(engine, losses)

    def test_instances_and_positions_that_change_places_in_a_square(self) -> None:
        layers = nn.ModuleList([nn.Linear(4, 5), nn.Linear(5, 3)]).to(F64)
        engine, x = Autogram(layers, batch_dim=0), batch(5, 5, 4)
        for dim in (1, 0, 1):
            expected = reference(one(layers[1](layers[0](x)).sin().sum(dim)), engine.parameters)
            found = engine.compute_gramian(one(layers[1](layers[0](x)).sin().sum(dim)))
            torch.testing.assert_close(found, expected)

    def test_an_order_that_was_the_batchs_own_at_first(self) -> None:
        layers = nn.ModuleList([nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)]).to(F64)
        engine = Autogram(layers, batch_dim=0)
        for order in (torch.arange(6), torch.tensor([3, 1, 0, 5, 4, 2]), torch.arange(6)):
            x = batch(6, 4)

            def losses(x: Tensor = x, order: Tensor = order) -> Tensor:
                hidden = layers[1](layers[0](x).tanh()[order]).tanh()
                return one(layers[2](hidden[order.argsort()]))

            assert_right_or_refused(engine, losses)

    def test_tokens_that_were_one_of_each_instance_at_first(self) -> None:
        layers = nn.ModuleList([nn.Linear(4, 5), nn.Linear(5, 1)]).to(F64)
        engine = Autogram(layers, batch_dim=0)
        for places in ([0, 4, 8, 9], [0, 1, 5, 9]):
            x, mask = batch(4, 3, 4), torch.zeros(4, 3, dtype=torch.bool)
            mask.view(-1)[places] = True

            def losses(x: Tensor = x, mask: Tensor = mask) -> Tensor:
                found = layers[1](layers[0](x).tanh()[mask]).square().flatten()
                return torch.zeros(4, dtype=F64).index_add(0, mask.nonzero()[:, 0], found)

            assert_right_or_refused(engine, losses)

    def test_places_are_remembered_where_the_data_choose_none(self, monkeypatch: Any) -> None:
        model = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True).to(F64)
        engine = Autogram(model, batch_dim=0)
        probe = Instances.probe
        probes: list[int] = []

        def counted(self: Instances, edges: Any) -> Any:
            probes.append(1)
            return probe(self, edges)

        monkeypatch.setattr(Instances, "probe", counted)
        classes = torch.tensor([0, 3, 1, 7])
        for last in ([0, 5, 2, 2], [1, 1, 4, 3]):
            output = model(torch.cat([batch(4, 1, 8), batch(4, 5, 8)], dim=1))
            chosen = output[torch.arange(4), torch.tensor(last)] + output[:, 0]
            logits = chosen.log_softmax(1)
            engine.backward(-logits.gather(1, classes.unsqueeze(1)), Ramp())
        assert len(probes) == 2  # 8 classes are twice the batch: they might be instances
        for n in (3, 3):
            output = model(torch.cat([batch(n, 1, 8), batch(n, 5, 8)], dim=1))
            chosen = output[torch.arange(n), torch.tensor([5, 2, 1])] + output[:, 0]
            logits = chosen.log_softmax(1)
            engine.backward(-logits.gather(1, classes[:n].unsqueeze(1)), Ramp())
        assert len(probes) == 3

    @pytest.mark.parametrize("norm", [nn.InstanceNorm1d(4, affine=True), nn.GroupNorm(2, 4)])
    def test_norms_of_images_that_lie_time_first_in_memory(self, norm: nn.Module) -> None:
        model, x = nn.ModuleList([nn.Linear(4, 4), norm]).to(F64), batch(6, 5, 4)
        assert_served(model, lambda: one(model[1](model[0](x).permute(1, 2, 0))))

    def test_a_first_layer_that_mixes_instances_after_a_batch_of_one(self) -> None:
        model = nn.Sequential(Centred(), nn.Linear(4, 3)).to(F64)
        engine = Autogram(model, batch_dim=0)
        for n in (1, 6):
            losses = one(model(batch(n, 4)))
            expected = reference(losses, list(model.parameters()))
            torch.testing.assert_close(engine.compute_gramian(losses), expected)

    def test_a_batch_of_no_instances_is_refused(self) -> None:
        model = mlp()
        with pytest.raises(ValueError, match="losses is empty"):
            Autogram(model, batch_dim=0).compute_gramian(one(model(batch(0, 4))))

    def test_instances_along_the_second_dimension_of_the_losses(self) -> None:
        model, x = mlp(), batch(6, 5, 4)
        engine = assert_served(model, lambda: model(x).square().mean(2), batch_dim=1)
        losses = model(x).square().mean(2)
        assert losses.shape == (6, 5)
        expected = reference(losses, list(model.parameters()))
        torch.testing.assert_close(engine.compute_gramian(losses), expected)

    def test_losses_of_one_dimension_have_but_one(self) -> None:
        model, x = nn.TransformerEncoderLayer(8, 2, 12, 0.0).to(F64), batch(6, 5, 8)
        assert_served(model, lambda: one(model(x).transpose(0, 1)), batch_dim=1)

    def test_a_layer_under_torch_func_is_differentiated_by_autograd(self) -> None:
        model, x = mlp(), batch()
        assert_served(model, lambda: one(torch.func.vmap(model)(x)))
        assert_served(model, lambda: one(torch.func.vmap(torch.func.jacrev(model[2]))(model[0](x))))

    def test_gradients_of_gradients(self) -> None:
        model, x = mlp(), batch().requires_grad_()

        def losses() -> Tensor:
            output = model(x)
            (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
            return one(output) + one(slope)

        assert_served(model, losses)

    def test_inputs_that_require_gradients_get_theirs(self) -> None:
        model, x = mlp(), batch().requires_grad_()
        weights = Autogram(model, batch_dim=0).backward(one(model(x)), Ramp())
        assert weights is not None
        (expected,) = torch.autograd.grad(one(model(x)), x, weights)
        torch.testing.assert_close(x.grad, expected)

    def test_a_bare_tensor_that_is_no_parameter_gets_its_gradient(self) -> None:
        model, x, prompt = mlp(), batch(), torch.randn(4, dtype=F64, requires_grad=True)
        weights = Autogram(model, batch_dim=0).backward(one(model(x + prompt)), Ramp())
        assert weights is not None
        (expected,) = torch.autograd.grad(one(model(x + prompt)), prompt, weights)
        torch.testing.assert_close(prompt.grad, expected)


class TestShared:
    """What all instances share: positions, constants, the outputs of small networks."""

    @pytest.mark.parametrize(
        ("layer", "shape"),
        [
            (nn.Linear(4, 8), (6, 4)),
            (nn.LayerNorm(8), (6, 8)),
            (nn.Conv1d(4, 6, 3, padding=1), (1, 4, 8)),
            (nn.ConvTranspose1d(4, 6, 1), (1, 4, 8)),
            (nn.GroupNorm(2, 6), (1, 6, 8)),
            (nn.InstanceNorm1d(6, affine=True), (1, 6, 8)),
            (nn.PReLU(6), (1, 6, 8)),
            (nn.GRUCell(4, 8), (6, 4)),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
    )
    @pytest.mark.parametrize("losses", [one, several])
    def test_layers_over_constants_that_are_added(
        self, layer: nn.Module, shape: tuple[int, ...], losses: Callable[[Tensor], Tensor]
    ) -> None:
        model = nn.ModuleList([layer, nn.Linear(8, 3)]).to(F64)
        x, constant = batch(5, 6, 8), batch(*shape)
        engine = assert_served(model, lambda: losses(model[1]((x + model[0](constant)).tanh())))
        # Not merely by one backward pass for each objective.
        plan = engine.linearize([one(model[1](x + model[0](constant)))]).plan
        assert not plan.fallback

    def test_layers_over_constants_that_are_multiplied(self) -> None:
        model, x, constant = (
            nn.ModuleList([nn.Linear(3, 8), nn.Linear(8, 3)]).to(F64),
            batch(5, 6, 8),
            batch(3),
        )
        assert_served(model, lambda: one(model[1](x * model[0](constant))))

    def test_a_layer_that_is_given_nothing(self) -> None:
        class Table(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.randn(5, 3))
                self.adjacent = torch.eye(5, dtype=F64).to_sparse()

            def forward(self) -> Tensor:
                return torch.mm(self.adjacent, self.weight)

        model = Table().to(F64)
        assert_served(model, lambda: one(model()))

    def test_packed_sequences(self) -> None:
        model, x = nn.LSTM(8, 4, batch_first=True).to(F64), batch(5, 6, 8)

        def losses() -> Tensor:
            packed = rnn.pack_padded_sequence(x, [6, 5, 4, 3, 2], batch_first=True)
            return one(rnn.pad_packed_sequence(model(packed)[0], batch_first=True)[0])

        assert_served(model, losses)

    def test_a_learned_initial_state(self) -> None:
        model, x = nn.GRU(8, 4, batch_first=True).to(F64), batch(5, 6, 8)
        start = nn.ParameterList([nn.Parameter(torch.randn(1, 1, 4, dtype=F64))])
        both = nn.ModuleList([model, start])
        assert_served(both, lambda: one(model(x, start[0].expand(-1, 5, -1).contiguous())[0]))
        assert_served(both, lambda: one(model(hx=start[0].repeat(1, 5, 1), input=x)[0]))


class TestParts:
    def test_the_gramian_of_a_part_and_the_gradient_of_all(self) -> None:
        model, x = mlp(), batch()
        for part in (model[0], model[2]):
            engine = Autogram(part, batch_dim=0)
            expected = reference(one(model(x)), list(part.parameters()))
            torch.testing.assert_close(engine.compute_gramian(one(model(x))), expected)
            weights = engine.backward(one(model(x)), Ramp())
            assert weights is not None
            assert_gradient(model, lambda: one(model(x)), weights, 1e-10, "a part")

    def test_parent_and_child_given_both_count_once(self) -> None:
        model, x = mlp(), batch()
        engine = Autogram(model, model[0], model, batch_dim=0)
        expected = reference(one(model(x)), list(model.parameters()))
        torch.testing.assert_close(engine.compute_gramian(one(model(x))), expected)

    @pytest.mark.parametrize("batch_dim", [0, None])
    def test_a_part_of_a_weight_that_is_also_used_whole(self, batch_dim: int | None) -> None:
        layer, x = nn.Linear(4, 6).to(F64), batch()

        def losses() -> Tensor:
            first, second = layer.weight.split([2, 4])
            output = layer(x).tanh()
            output = output * functional.linear(x, first).repeat(1, 3)
            output = output + functional.linear(x, second).sum(1, keepdim=True)
            return one(output) if batch_dim == 0 else tasks(output)

        assert_served(layer, losses, batch_dim=batch_dim)

    def test_parts_of_a_weight_that_overlap(self) -> None:
        layer, x = nn.Linear(4, 6, bias=False).to(F64), batch()

        def losses() -> Tensor:
            first, _ = layer.weight.split([3, 3])
            _, second = layer.weight.split([2, 4])
            output = functional.linear(x, second) + functional.linear(x, first).sum(1, keepdim=True)
            return one(output)

        assert_served(layer, losses)

    def test_two_modules_that_share_a_parameter(self) -> None:
        first, second, x = nn.Linear(4, 4).to(F64), nn.Linear(4, 4).to(F64), batch()
        second.weight = first.weight
        engine = Autogram(first, second, batch_dim=0)
        losses = one(second(first(x).tanh()))
        torch.testing.assert_close(
            engine.compute_gramian(losses), reference(losses, engine.parameters)
        )

    def test_two_engines_on_one_model_do_not_meet(self) -> None:
        model, x = mlp(), batch()
        whole, part = Autogram(model, batch_dim=0), Autogram(model[2], batch_dim=None)
        losses = one(model(x))
        torch.testing.assert_close(
            whole.compute_gramian(losses), reference(losses, list(model.parameters()))
        )
        torch.testing.assert_close(
            part.compute_gramian(losses), reference(losses, list(model[2].parameters()))
        )
        whole.backward(losses, Ramp(), retain_graph=True)
        part.backward(losses, Ramp())

    def test_features_of_a_model_without_a_rule(self) -> None:
        trunk, heads = nn.Sequential(nn.Linear(4, 5), nn.PReLU()).to(F64), nn.Linear(5, 3).to(F64)
        x, engine = batch(), Autogram(trunk, batch_dim=None)

        def run() -> tuple[Tensor, Tensor]:
            features = trunk(x)
            return features, heads(features).square().mean(0)

        features, losses = run()
        weights = engine.backward(losses, Ramp(), features=[features])
        assert weights is not None
        found = [p.grad for p in (*trunk.parameters(), *heads.parameters())]
        _, losses = run()
        expected = torch.autograd.grad(losses, list(trunk.parameters()), weights, retain_graph=True)
        plain = torch.autograd.grad(losses.sum(), list(heads.parameters()))
        torch.testing.assert_close(joined(found), joined([*expected, *plain]))


class TestPrecision:
    def test_autocast_gives_the_gramian_of_the_autocast_model(self) -> None:
        model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        attention = nn.MultiheadAttention(8, 2, batch_first=True)
        both, x = nn.ModuleList([model, attention]), batch(6, 3, 8, dtype=torch.float32)

        def losses() -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                hidden = attention(x, x, x)[0]
                return one(model(hidden).float())

        engine = Autogram(both, batch_dim=0)
        given = losses()
        found = engine.compute_gramian(given)
        expected = reference(given, list(both.parameters()))
        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found.double(), expected, rtol=3e-2, atol=3e-2 * float(expected.max())
        )
        weights = engine.backward(given, Ramp())
        assert weights is not None
        assert_gradient(both, losses, weights, 3e-2, "autocast")

    @pytest.mark.parametrize("scale", [2.0**-20, 2.0**16])
    def test_the_weights_do_not_depend_on_the_scale_of_the_losses(self, scale: float) -> None:
        class Normalised(GramianWeighting):
            def forward(self, gramian: Tensor, /) -> Tensor:
                return gramian.diagonal().sum().sqrt() / gramian.diagonal().sqrt()

        model, x = mlp(torch.float32), batch(dtype=torch.float32)

        def weights(factor: float) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                losses = one(model(x).float()) * factor
            found = Autogram(model, batch_dim=0).backward(losses, Normalised())
            assert found is not None
            return found

        torch.testing.assert_close(weights(scale), weights(1.0), rtol=1e-2, atol=1e-3)

    def test_half_precision_models_have_a_gramian_in_single_precision(self) -> None:
        model, x = mlp(torch.bfloat16), batch(dtype=torch.bfloat16)
        engine = Autogram(model, batch_dim=0)
        losses = one(model(x))
        found = engine.compute_gramian(losses)
        assert found.dtype == torch.float32
        expected = reference(losses, list(model.parameters())).float()
        torch.testing.assert_close(found, expected, rtol=5e-2, atol=5e-2 * float(expected.max()))

    def test_complex_parameters_are_refused_by_name(self) -> None:
        model = nn.Sequential(nn.Linear(4, 3, dtype=torch.complex64))
        with pytest.raises(jd.UnsupportedModelError, match=r"'0\.weight' is complex"):
            Autogram(model, batch_dim=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor's own
class TestCompiled:
    def both(self, backend: str, first: str) -> tuple[nn.Module, Any, Autogram]:
        if backend == "inductor" and shutil.which("g++") is None:
            pytest.skip("not applicable: inductor needs a compiler")
        torch.compiler.reset()
        plain = mlp(torch.float32)
        if first == "engine":
            engine = Autogram(plain, batch_dim=0)
        compiled = torch.compile(plain, backend=backend)
        if first == "compiled":
            one(compiled(batch(dtype=torch.float32))).sum().backward()
            plain.zero_grad()
            engine = Autogram(plain, batch_dim=0)
        return plain, compiled, engine

    @pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
    @pytest.mark.parametrize("first", ["compiled", "engine"])
    def test_compiled_models_are_served(self, backend: str, first: str) -> None:
        with torch._functorch.config.patch(donated_buffer=False):
            plain, compiled, engine = self.both(backend, first)
            x = batch(dtype=torch.float32)
            expected = reference(one(plain(x)), list(plain.parameters()))
            found = engine.compute_gramian(one(compiled(x))).double()
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
            for _ in range(2):
                weights = engine.backward(one(compiled(x)), Ramp())
                assert weights is not None
                assert_gradient(plain, lambda: one(plain(x)), weights, 1e-5, backend)

    def test_what_can_be_differentiated_but_once_is_refused_with_the_remedy(self) -> None:
        plain, compiled, engine = self.both("aot_eager", "compiled")
        with pytest.raises(jd.UnsupportedModelError, match="donated_buffer = False"):
            engine.backward(one(compiled(batch(dtype=torch.float32))), Ramp())
        assert all(p.grad is None for p in plain.parameters())


class TestCheckpointed:
    def test_reentrant_checkpointing_is_refused_or_right(self) -> None:
        model, x = mlp(), batch().requires_grad_()
        engine = Autogram(model, batch_dim=0)
        losses = one(model[2](checkpoint(model[:2], x, use_reentrant=True)))
        with pytest.raises(jd.UnsupportedModelError, match="use_reentrant=False"):
            engine.backward(losses, Ramp())
        assert all(p.grad is None for p in model.parameters())


class TestRefused:
    @pytest.mark.parametrize(
        ("layer", "shape"),
        [(nn.BatchNorm1d(3), (5, 4)), (nn.BatchNorm1d(3, affine=False), (5, 4))],
    )
    def test_batch_statistics_by_name(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        model = nn.Sequential(nn.Linear(4, 3), layer)
        engine = Autogram(model, batch_dim=0)
        with pytest.raises(jd.UnsupportedModelError, match=r"'1' \(BatchNorm1d\).*\.eval\(\)"):
            engine.backward(one(model(batch(*shape, dtype=torch.float32))), Ramp())

    def test_losses_that_mix_instances(self) -> None:
        model, x = mlp(), batch()
        engine = Autogram(model, batch_dim=0)
        output = model(x)
        with pytest.raises(jd.UnsupportedModelError, match="does not fall apart into instances"):
            engine.backward(one(output - output.mean(0)), Ramp())
        assert model[0].weight.grad is None

    def test_layers_below_the_mixing_are_served_an_objective_at_a_time(self) -> None:
        model, x = mlp(), batch()

        def losses() -> Tensor:
            hidden = model[0](x)
            return one(model[2](hidden - hidden.mean(0)))

        assert_served(model, losses)

    def test_separate_scalars(self) -> None:
        model = mlp()
        engine = Autogram(model, batch_dim=0)
        with pytest.raises(jd.UnsupportedModelError, match=r"torch\.stack"):
            engine.backward(list(one(model(batch())).unbind()), Ramp())

    @pytest.mark.parametrize("batch_dim", [-1, -2, -3])
    def test_a_negative_batch_dim_counts_from_the_last(self, batch_dim: int) -> None:
        model, x = mlp(), batch()

        def losses() -> Tensor:
            found = grid(model(x))
            return found.movedim(0, batch_dim % 3)

        assert_served(model, losses, batch_dim=batch_dim)

    def test_a_negative_batch_dim_of_one_loss_per_instance(self) -> None:
        model, x = mlp(), batch()
        assert_served(model, lambda: one(model(x)), batch_dim=-1)

    @pytest.mark.parametrize("memory", ["much", "-1GB", "nanGB", 1.5, -0.1, "4"])
    def test_memory_that_is_no_amount(self, memory: float | str) -> None:
        with pytest.raises(jd.ConfigError, match="memory"):
            Autogram(mlp(), memory=memory)

    def test_methods_that_need_the_jacobian(self) -> None:
        class Columns(jd.bases.Aggregator):
            def forward(self, jacobian: Tensor, /) -> Tensor:
                return jacobian.amax(0)

        model = mlp()
        with pytest.raises(jd.UnsupportedModelError, match="needs the Jacobian"):
            Autogram(model, batch_dim=0).backward(one(model(batch())), Columns())


class TestExceptions:
    """After any exception, ``.grad`` is as before and the next step is right."""

    def check(self, engine: Autogram, model: nn.Module, fail: Callable[[], Any]) -> None:
        before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        with pytest.raises(ArithmeticError, match="no luck"):
            fail()
        for parameter, gradient in zip(model.parameters(), before, strict=True):
            assert (parameter.grad is None) == (gradient is None)
            assert gradient is None or torch.equal(parameter.grad, gradient)
        x = batch()
        losses = one(model(x))
        expected = reference(losses, list(model.parameters()))
        torch.testing.assert_close(engine.compute_gramian(losses), expected)
        model.zero_grad()
        weights = engine.backward(losses, Ramp())
        assert weights is not None
        assert_gradient(model, lambda: one(model(x)), weights, 1e-10, "after an exception")

    def test_in_the_forward_pass(self) -> None:
        model = mlp()
        engine = Autogram(model, batch_dim=0)
        handle = model[1].register_forward_hook(_fail)

        def fail() -> None:
            try:
                model(batch())
            finally:
                handle.remove()

        self.check(engine, model, fail)

    def test_in_a_layer_without_a_rule(self) -> None:
        model = nn.Sequential(nn.PReLU(), nn.Linear(4, 3)).to(F64)
        engine = Autogram(model, batch_dim=0)
        handle = model[0].register_forward_pre_hook(_fail)

        def fail() -> None:
            try:
                model(batch())
            finally:
                handle.remove()

        self.check(engine, model, fail)

    def test_in_the_backward_pass(self) -> None:
        model = mlp()
        engine = Autogram(model, batch_dim=0)

        def fail() -> None:
            hidden = model[0](batch())
            hidden.register_hook(_fail)
            engine.backward(one(model[2](hidden)), Ramp())

        self.check(engine, model, fail)

    def test_in_a_rule(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = mlp()
        engine = Autogram(model, batch_dim=0)

        def fail() -> None:
            with monkeypatch.context() as context:
                context.setattr("jd_plugin_autogram.factors.product.Product.gramian", _fail)
                engine.backward(one(model(batch())), Ramp())

        self.check(engine, model, fail)

    def test_in_the_update(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = mlp()
        engine = Autogram(model, batch_dim=0)
        engine.backward(one(model(batch())), Ramp())

        def fail() -> None:
            with monkeypatch.context() as context:
                context.setattr("jd_plugin_autogram.factors.product.Product.gradient", _fail)
                engine.backward(one(model(batch())), Ramp())

        self.check(engine, model, fail)

    def test_in_the_method(self) -> None:
        class Failing(GramianWeighting):
            def forward(self, gramian: Tensor, /) -> Tensor:
                raise ArithmeticError("no luck")

        model = mlp()
        engine = Autogram(model, batch_dim=0)
        self.check(engine, model, lambda: engine.backward(one(model(batch())), Failing()))


def _fail(*args: Any, **kwargs: Any) -> None:
    raise ArithmeticError("no luck")


class TestMemory:
    def test_it_is_flat_over_a_thousand_steps(self) -> None:
        model = nn.Sequential(nn.Linear(4, 8), nn.PReLU(), nn.LayerNorm(8), nn.Linear(8, 3))
        engine = Autogram(model, batch_dim=0)

        def step(n: int) -> None:
            engine.backward(several(model(torch.randn(n, 4))), Ramp())
            model(torch.randn(n, 4))
            model.zero_grad()

        def live() -> int:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return sum(isinstance(thing, Tensor) for thing in gc.get_objects())

        for n in (2, 3, 4):
            step(n)
        gc.collect()
        before = live()
        gc.disable()
        try:
            for i in range(1000):
                step(2 + i % 3)
            assert live() <= before + 5
        finally:
            gc.enable()

    def test_little_memory_takes_another_backward_pass_and_gives_the_same(self) -> None:
        model, x = mlp(), batch()
        passes = []
        for memory in (1.0, "1KB", "0B"):
            engine = Autogram(model, batch_dim=0, memory=memory)
            engine.backward(one(model(x)), Ramp())
            model.zero_grad()
            losses, count = one(model(x)), []
            losses.register_hook(lambda g, count=count: count.append(1))
            weights = engine.backward(losses, Ramp())
            assert weights is not None
            assert_gradient(model, lambda: one(model(x)), weights, 1e-10, str(memory))
            passes.append(len(count))
        assert passes[0] == 1
        assert passes[2] > 1


def test_losses_that_begin_to_mix_instances_are_found_out_by_the_tenth_step() -> None:
    model = mlp()
    engine = Autogram(model, batch_dim=0)

    def losses(share: float) -> Tensor:
        outputs = one(model(batch()))
        return outputs + share * outputs.mean()

    for _ in range(9):
        engine.compute_gramian(losses(0.0))
    with pytest.raises(jd.UnsupportedModelError, match="fails uᵀGu"):
        engine.compute_gramian(losses(1.0))


def test_a_convolution_that_onednn_has_no_primitive_for_takes_another_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = torch.ops.aten.convolution_backward

    def without_primitive(*arguments: Any) -> Any:
        if torch._C._get_mkldnn_enabled():
            raise RuntimeError("could not create a primitive")
        return original(*arguments)

    without_primitive.default = original.default  # type: ignore[attr-defined]
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=12, dilation=12, groups=4), nn.Tanh(), nn.Flatten()
    ).to(F64)
    x = batch(3, 4, 6, 6)
    monkeypatch.setattr(torch.ops.aten, "convolution_backward", without_primitive)
    assert_served(model, lambda: one(model(x)))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_few_numbers_that_lie_otherwise_than_the_rest_are_noticed(dtype: torch.dtype) -> None:
    # Frames are folded into the batch, of which the first tokens are taken for the instances'.
    plain = batch(24, 5, 3, dtype=dtype)
    plain[:, 0] *= 1e-3
    factors = torch.linspace(0.5, 1.5, 4, dtype=dtype)
    scaled = plain * factors.repeat_interleave(6)[:, None, None]
    assert agrees(Layout(4), plain, scaled, factors)
    scaled[:4, 0] = plain[:4, 0] * factors[:, None]
    assert not agrees(Layout(4), plain, scaled, factors)


def rewired(convolution: Any, **settings: Any) -> nn.Sequential:
    """A convolution whose settings are assigned, as dilated encoders do to pretrained ones."""
    for name, value in settings.items():
        setattr(convolution, name, value)
    return nn.Sequential(convolution, nn.Conv2d(5, 2, 1)).to(F64)


@pytest.mark.parametrize(
    "settings",
    [
        {"stride": (1, 1), "dilation": (2, 2), "padding": (2, 2)},
        {"stride": 1, "padding": 2},
        {"padding": "same", "stride": 1},
        {"padding": "valid"},
    ],
)
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_is_differentiated_with_the_settings_that_it_has_now(
    settings: dict[str, Any], kernel: int
) -> None:
    convolution = nn.Conv2d(3, 5, kernel, stride=2, padding=kernel // 2)
    model, x = rewired(convolution, **settings), batch(4, 3, 8, 8)
    engine = assert_served(model, lambda: one(model(x)))
    assert engine.linearize([one(model(x))]).plan.fallback == []


MASK = torch.tensor([True, False, True, True, False, True])
PICKED: dict[str, Callable[[Tensor], Tensor]] = {
    "mask": lambda losses: losses[MASK],
    "index": lambda losses: losses[torch.tensor([3, 0, 1, 5])],
    "masked_select": lambda losses: losses.masked_select(MASK),
    "index_select": lambda losses: losses.index_select(0, torch.tensor([3, 0, 1, 5])),
    "gather": lambda losses: losses.gather(0, torch.tensor([3, 0, 1, 5])),
    "topk": lambda losses: losses.topk(4).values,
    "slice": lambda losses: losses[1:5],
    "mask, and then more": lambda losses: 2 * losses[MASK].square(),
}


@pytest.mark.parametrize("pick", PICKED.values(), ids=PICKED)
def test_losses_of_some_instances_are_refused_with_the_line_that_serves_them(
    pick: Callable[[Tensor], Tensor],
) -> None:
    model, x = mlp(), batch(6, 4)
    engine = Autogram(model, batch_dim=0)
    with pytest.raises(jd.UnsupportedModelError, match=r"torch\.where\(mask, losses, 0\)"):
        engine.compute_gramian(pick(one(model(x))))
    assert_served(model, lambda: torch.where(MASK, one(model(x)), 0))


def test_losses_that_were_stacked_one_by_one_are_served() -> None:
    model, x = mlp(), batch(6, 4)

    def losses() -> Tensor:
        found = one(model(x))
        return torch.stack([found[0], found[4], found[2], found[5]])

    assert_served(model, losses)


def test_losses_that_mix_are_not_taken_for_some_of_them_because_features_were_cut() -> None:
    model, x = mlp(), batch(4, 9)[:, :4]
    layer = nn.Linear(4, 9).to(F64)
    both = nn.Sequential(layer, model)

    def losses() -> Tensor:
        output = model(layer(x)[:, :4])
        return one(output - output.mean(0))

    with pytest.raises(jd.UnsupportedModelError, match="does not fall apart") as caught:
        Autogram(both, batch_dim=0).compute_gramian(losses())
    assert "torch.where" not in str(caught.value)


def test_losses_in_another_order_are_not_taken_for_some_of_them() -> None:
    model, x = mlp(), batch(6, 4)
    with pytest.raises(jd.UnsupportedModelError, match="order changes") as caught:
        Autogram(model, batch_dim=0).compute_gramian(one(model(x)).flip(0))
    assert "torch.where" not in str(caught.value)
