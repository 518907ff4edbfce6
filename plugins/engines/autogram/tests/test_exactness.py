"""On every architecture, shape of the losses and mode: the Gramian and ``.grad`` of autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from jd_plugin_autogram import Autogram

from .truth import F64, assert_served, grid, one, several, tasks, two_dimensional_tasks

LOSSES: dict[str, tuple[Callable[[Tensor], Tensor], int | None]] = {
    "n": (one, 0),
    "n 3": (several, 0),
    "n 2 2": (grid, 0),
    "tasks": (tasks, None),
    "2 2 tasks": (two_dimensional_tasks, None),
}

pytestmark = [
    # What torch says of its own layers is no concern of the engine's.
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported"),
]


@dataclass(frozen=True)
class Case:
    """A model, and how it is run on a batch whose first dimension holds four instances."""

    model: Callable[[], nn.Module]
    shape: tuple[int, ...] = (4, 6, 8)
    run: Callable[[Any, Tensor], Tensor] = lambda model, x: model(x)
    tokens: int = 0
    """The size of the vocabulary, if the input is made of tokens."""

    def input(self, dtype: torch.dtype) -> Tensor:
        if self.tokens:
            return torch.randint(self.tokens, self.shape)
        return torch.randn(self.shape, dtype=dtype)


class Attention(nn.Module):
    """Attention as people write it: one projection, heads, an output projection."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3)
        q, k, v = parts.unbind(2)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        output: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return output


class LanguageModel(nn.Module):
    """Learned positions that all instances share, and a head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(9, 8), nn.Embedding(6, 8)
        self.block, self.norm = Attention(), nn.LayerNorm(8)
        self.head = nn.Linear(8, 9, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        output: Tensor = self.head(self.norm(x + self.block(x)))
        return output


class VisionTransformer(nn.Module):
    """Bare parameters: a class token, positions, a scale of the residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 10, 8))
        self.scale = nn.Parameter(torch.rand(8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        x = x + self.scale * self.attention(x, x, x, need_weights=False)[0]
        output: Tensor = self.head(x[:, 0])
        return output


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.short = nn.InstanceNorm2d(6, affine=True), nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(functional.relu_(self.norm(self.first(x))))
        return functional.relu_(y + self.short(x))


class Inverted(nn.Sequential):
    """A block of MobileNetV2."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 12, 1, bias=False),
            nn.GroupNorm(3, 12),
            nn.ReLU6(inplace=True),
            nn.Conv2d(12, 12, 3, stride=2, padding=1, groups=12, bias=False),
            nn.GroupNorm(3, 12),
            nn.ReLU6(inplace=True),
            nn.Conv2d(12, 5, 1, bias=False),
        )


class Frames(nn.Module):
    """Convolutions over frames that are folded into the batch."""

    def __init__(self, *, first: str) -> None:
        super().__init__()
        self.first = first
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        time = 3
        frames = x.unflatten(1, (time, 2))
        if self.first == "time":
            folded = self.body(frames.transpose(0, 1).flatten(0, 1))
            return folded.unflatten(0, (time, -1)).transpose(0, 1)
        output: Tensor = self.body(frames.flatten(0, 1)).unflatten(0, (-1, time))
        return output


class Looped(nn.Module):
    """Cells that are called once for each step of time."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, dim=1)


class TwoMaps(nn.Module):
    """The parameters of a rule-less layer, used in ways that the graph shows, and that it hides."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(8, 5))
        self.shift = nn.Parameter(torch.randn(6, 1))
        self.inner = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x @ self.matrix + self.shift)
        y = functional.linear(y, self.inner.weight) + self.inner(y)
        return torch.einsum("nti,ij->ntj", y, self.matrix[:5].exp())


class LowRank(nn.Module):
    """A frozen matrix and a sum of low rank, as in LoRA, merged before it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Parameter(torch.randn(5, 8), requires_grad=False)
        self.down, self.up = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.frozen + self.up @ self.down)


class ChangedInPlace(nn.Module):
    """In-place operations on what layers put out, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu_(self.first(x))
        z = self.norm(y)
        z[:, 1:] *= 2.0
        z.add_(y)
        output: Tensor = self.second(z).exp_()
        return output


class Recomputed(nn.Module):
    """Non-reentrant activation checkpointing."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def _mixed(self, x: Tensor) -> Tensor:
        output: Tensor = self.attention(x, x, x)[0]
        return output

    def forward(self, x: Tensor) -> Tensor:
        y = checkpoint(self.body, x, use_reentrant=False)
        output: Tensor = self.head(checkpoint(self._mixed, y, use_reentrant=False))
        return output


class Shared(nn.Module):
    """The same block three times, and two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.other, self.conv = nn.Linear(8, 8), nn.Conv1d(6, 6, 3, padding=1)
        self.other.weight = self.block[0].weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(self.block(self.block(x)))
        output: Tensor = self.conv(self.conv(self.other(y)))
        return output


class Tuples(nn.Module):
    """A layer without a rule that takes keywords, returns a mapping, and is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    def forward(self, x: Tensor) -> Tensor:
        found = self.pair(values=x, shift=torch.tensor(0.5))
        again = self.pair(values=found["scaled"], shift=torch.tensor(1.0))
        output: Tensor = found["shifted"] * again["shifted"] + again["scaled"]
        return output


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factors, self.offsets = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))

    def forward(self, *, values: Tensor, shift: Tensor) -> dict[str, Tensor]:
        return {
            "scaled": values * self.factors.sin(),
            "shifted": values.cos() * self.offsets + shift,
        }


def recurrent(kind: type[nn.Module], output: int = 0, **config: Any) -> Case:
    """The outputs of a recurrent layer, or one of its final states."""

    def run(model: Any, x: Tensor) -> Tensor:
        sequences, state = model(x if model.batch_first else x.transpose(0, 1))
        if output:
            states = state if isinstance(state, tuple) else (state,)
            return torch.cat(states, dim=-1).transpose(0, 1)
        return sequences if model.batch_first else sequences.transpose(0, 1)

    return Case(lambda: kind(8, 5, **config), run=run)


def attention(run: Callable[[Any, Tensor], Tensor], **config: Any) -> Case:
    return Case(lambda: nn.MultiheadAttention(8, 2, **config), run=run)


def encoder(**config: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(8, 2, 12, 0.0, **config)


def time_first(model: Any, x: Tensor) -> Tensor:
    output: Tensor = model(x.transpose(0, 1)).transpose(0, 1)
    return output


def convolved(layer: Callable[[], nn.Module], *shape: int) -> Case:
    return Case(layer, (4, *shape))


def masked(model: Any, x: Tensor) -> Tensor:
    padding = torch.zeros(4, 6, dtype=torch.bool)
    padding[1, 4:] = True
    causal = torch.triu(torch.ones(6, 6, dtype=torch.bool), 1)
    output: Tensor = model(x, x, x, key_padding_mask=padding, attn_mask=causal)[0]
    return output


def in_offsets(model: Any, ids: Tensor) -> Tensor:
    factors = torch.linspace(0.5, 2.0, ids.numel(), dtype=model.weight.dtype)
    output: Tensor = model(ids.flatten(), torch.tensor([0, 0, 5, 16]), factors)
    return output


CASES: dict[str, Case] = {
    "mlp": Case(lambda: nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), (4, 8)),
    "linear over two dimensions": Case(lambda: nn.Linear(8, 3), (4, 2, 3, 8)),
    "linear over folded positions": Case(
        lambda: nn.Linear(8, 3), run=lambda m, x: m(x.flatten(0, 1)).unflatten(0, (4, 6))
    ),
    "linear over time first, folded": Case(
        lambda: nn.Linear(8, 3),
        run=lambda m, x: m(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (6, 4)).transpose(0, 1),
    ),
    "as many positions as instances": Case(
        lambda: nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)), (4, 4, 8), time_first
    ),
    "linear by keyword": Case(lambda: nn.Linear(8, 3), run=lambda m, x: m(input=x)),
    "expanded inputs": Case(
        lambda: nn.Linear(8, 3),
        (1, 6, 8),
        run=lambda m, x: (
            m(x.expand(4, -1, -1)) * torch.arange(1.0, 5.0, dtype=x.dtype).reshape(4, 1, 1)
        ),
    ),
    "bilinear": Case(lambda: nn.Bilinear(8, 8, 3), run=lambda m, x: m(x, x.cos())),
    "prelu": Case(lambda: nn.Sequential(nn.PReLU(6), nn.Linear(8, 3))),
    "conv1d": convolved(lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), 4, 9),
    "conv2d": convolved(lambda: nn.Conv2d(4, 6, 3, padding=1), 4, 6, 7),
    "conv2d pointwise": convolved(lambda: nn.Conv2d(4, 6, 1), 4, 5, 5),
    "conv2d pointwise strided": convolved(lambda: nn.Conv2d(4, 6, 1, stride=2), 4, 5, 5),
    "conv2d dilated, leaving a rest": convolved(
        lambda: nn.Conv2d(4, 6, (3, 2), stride=(3, 2), dilation=2, bias=False), 4, 10, 9
    ),
    "conv2d depthwise": convolved(lambda: nn.Conv2d(4, 8, 3, groups=4, padding=1), 4, 5, 5),
    "conv2d same, even kernel": convolved(lambda: nn.Conv2d(4, 6, (4, 3), padding="same"), 4, 6, 6),
    "conv2d reflect": convolved(
        lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), 4, 6, 6
    ),
    "conv2d circular": convolved(
        lambda: nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"), 4, 6, 6
    ),
    "conv2d replicate": convolved(
        lambda: nn.Conv2d(4, 6, 3, padding=2, stride=2, padding_mode="replicate"), 4, 6, 6
    ),
    "conv2d channels last": Case(
        lambda: nn.Conv2d(4, 6, 3),
        (4, 4, 6, 6),
        lambda m, x: m(x.to(memory_format=torch.channels_last)),
    ),
    "conv2d with few positions": convolved(
        lambda: nn.Sequential(nn.Conv2d(4, 40, 3), nn.ReLU(), nn.Conv2d(40, 40, 2)), 4, 4, 4
    ),
    "conv3d": convolved(lambda: nn.Conv3d(2, 4, (1, 2, 3), padding=1, groups=2), 2, 4, 5, 4),
    "frames in the batch": Case(lambda: Frames(first="batch"), (4, 6, 5, 5)),
    "frames in the batch, time first": Case(lambda: Frames(first="time"), (4, 6, 5, 5)),
    "transposed conv1d": convolved(
        lambda: nn.ConvTranspose1d(4, 6, 3, stride=3, padding=1, output_padding=2), 4, 7
    ),
    "transposed conv2d": convolved(
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, dilation=2, groups=2, bias=False), 4, 5, 6
    ),
    "transposed conv2d pointwise": convolved(lambda: nn.ConvTranspose2d(4, 6, 1), 4, 3, 3),
    "transposed conv2d of a given size": Case(
        lambda: nn.ConvTranspose2d(4, 3, 3, stride=2),
        (4, 4, 3, 3),
        lambda m, x: m(x, output_size=(8, 8)),
    ),
    "transposed conv3d": convolved(lambda: nn.ConvTranspose3d(2, 3, 2, stride=2), 2, 3, 3, 3),
    "residual network": convolved(Residual, 3, 6, 6),
    "inverted residual": convolved(Inverted, 3, 6, 6),
    "layer norm": Case(lambda: nn.LayerNorm((6, 8)), (4, 3, 6, 8)),
    "layer norm, time first": Case(lambda: nn.LayerNorm(8), run=time_first),
    "rms norm": Case(lambda: nn.Sequential(nn.RMSNorm(8), nn.Linear(8, 3))),
    "group norm": convolved(lambda: nn.Sequential(nn.GroupNorm(2, 6), nn.Conv1d(6, 3, 1)), 6, 5),
    "group norm without positions": Case(lambda: nn.GroupNorm(2, 6), (4, 6)),
    "instance norm": convolved(lambda: nn.InstanceNorm2d(3, affine=True), 3, 5, 5),
    "instance norm without parameters": convolved(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.Conv2d(4, 3, 1)), 3, 5, 5
    ),
    "instance norm with running statistics": convolved(
        lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True), 3, 5
    ),
    "instance norm with running statistics, at evaluation": convolved(
        lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True).eval(), 3, 5
    ),
    "batch norm at evaluation": convolved(
        lambda: nn.Sequential(nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4), nn.Conv1d(4, 3, 1)).eval(),
        3,
        6,
    ),
    "embedding": Case(
        lambda: nn.Sequential(nn.Embedding(9, 5, padding_idx=2), nn.Linear(5, 3)), (4, 6), tokens=9
    ),
    "embedding, time first": Case(lambda: nn.Embedding(9, 5), (4, 6), time_first, tokens=9),
    "sparse embedding": Case(lambda: nn.Embedding(9, 5, sparse=True), (4, 6), tokens=9),
    "embedding scaled by frequency": Case(
        lambda: nn.Embedding(9, 5, scale_grad_by_freq=True), (4, 6), tokens=9
    ),
    "embedding of bounded norm": Case(lambda: nn.Embedding(9, 5, max_norm=1.0), (4, 6), tokens=9),
    "embedding bag, sum": Case(
        lambda: nn.EmbeddingBag(9, 5, mode="sum", padding_idx=1), (4, 6), tokens=9
    ),
    "embedding bag, mean": Case(
        lambda: nn.EmbeddingBag(9, 5, mode="mean", padding_idx=1), (4, 6), tokens=9
    ),
    "embedding bag, max": Case(lambda: nn.EmbeddingBag(9, 5, mode="max"), (4, 6), tokens=9),
    "embedding bag, weighted bags of unequal size": Case(
        lambda: nn.EmbeddingBag(9, 5, mode="sum"), (4, 6), in_offsets, tokens=9
    ),
    "attention written out": Case(Attention),
    "attention": attention(lambda m, x: m(x, x, x, need_weights=False)[0], batch_first=True),
    "attention, masked": attention(masked, batch_first=True),
    "attention, time first": attention(lambda m, x: m(*[x.transpose(0, 1)] * 3)[0].transpose(0, 1)),
    "attention across": attention(
        lambda m, x: m(x, x[:, :4].cos(), x[:, :4].cos())[0], batch_first=True
    ),
    "attention of three inputs": attention(
        lambda m, x: m(x, x.cos(), x.sin())[0], batch_first=True
    ),
    "attention of three widths": attention(
        lambda m, x: m(x, x[..., :5], x[..., :3])[0],
        batch_first=True,
        kdim=5,
        vdim=3,
        add_bias_kv=True,
        add_zero_attn=True,
    ),
    "encoder layer": Case(lambda: encoder(batch_first=True)),
    "encoder layer, norm first": Case(lambda: encoder(batch_first=True, norm_first=True)),
    "encoder, time first": Case(
        lambda: nn.TransformerEncoder(encoder(), 2, enable_nested_tensor=False), run=time_first
    ),
    "transformer": Case(
        lambda: nn.Transformer(8, 2, 1, 2, 12, 0.0, batch_first=True),
        run=lambda m, x: m(x, x[:, 1:].cos()),
    ),
    "language model": Case(LanguageModel, (4, 6), tokens=9),
    "language model, short sequences": Case(LanguageModel, (4, 4), tokens=9),
    "vision transformer": convolved(VisionTransformer, 3, 6, 6),
    "rnn": recurrent(nn.RNN, batch_first=True, nonlinearity="relu"),
    "rnn, time first": recurrent(nn.RNN, num_layers=2, bias=False),
    "lstm": recurrent(nn.LSTM, num_layers=2, batch_first=True),
    "lstm, both directions": recurrent(nn.LSTM, num_layers=2, bidirectional=True),
    "lstm, projected, final states": recurrent(nn.LSTM, 1, proj_size=3, batch_first=True),
    "gru": recurrent(nn.GRU, num_layers=2, bidirectional=True, batch_first=True),
    "gru, final state": recurrent(nn.GRU, 1),
    "rnn cell": Case(lambda: Looped(nn.RNNCell(8, 5))),
    "lstm cell": Case(lambda: Looped(nn.LSTMCell(8, 5))),
    "gru cell": Case(lambda: Looped(nn.GRUCell(8, 5, bias=False))),
    "layers and weights used several times": Case(Shared),
    "parameter_uses parameters": Case(TwoMaps),
    "a merged sum of low rank": Case(LowRank),
    "a parametrized weight": Case(
        lambda: nn.Sequential(weight_norm(nn.Linear(8, 5)), nn.Linear(5, 3))
    ),
    "in-place operations": Case(ChangedInPlace),
    "activation checkpointing": Case(Recomputed),
    "tuples and keywords": Case(Tuples),
}


@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("case", CASES)
def test_the_gramian_and_the_update_are_those_of_autograd(case: str, losses: str) -> None:
    torch.manual_seed(0)
    given, (loss, batch_dim) = CASES[case], LOSSES[losses]
    model, x = given.model().to(F64), given.input(F64)
    assert_served(model, lambda: loss(given.run(model, x)), batch_dim=batch_dim)


@pytest.mark.parametrize("losses", ["n", "tasks"])
@pytest.mark.parametrize("case", CASES)
def test_single_precision_is_as_exact_as_it_can_be(case: str, losses: str) -> None:
    torch.manual_seed(0)
    given, (loss, batch_dim) = CASES[case], LOSSES[losses]
    model, x = given.model(), given.input(torch.float32)
    assert_served(model, lambda: loss(given.run(model, x)), 1e-5, batch_dim)


@pytest.mark.parametrize("losses", ["n 3", "tasks"])
@pytest.mark.parametrize("case", CASES)
def test_without_memory_the_result_is_the_same(case: str, losses: str) -> None:
    torch.manual_seed(0)
    given, (loss, batch_dim) = CASES[case], LOSSES[losses]
    model, x = given.model().to(F64), given.input(F64)
    assert_served(model, lambda: loss(given.run(model, x)), batch_dim=batch_dim, memory="0B")


@pytest.mark.parametrize("case", CASES)
def test_no_architecture_takes_a_backward_pass_for_each_objective(case: str) -> None:
    torch.manual_seed(0)
    given = CASES[case]
    model, x = given.model().to(F64), given.input(F64)
    engine = Autogram(model, batch_dim=0)
    plan = engine.linearize([one(given.run(model, x))]).plan
    assert not plan.fallback
