"""Small architectures on which engines go wrong, each with losses that exercise it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from jdframework.testing.generators import seeded


@dataclass(frozen=True)
class Architecture:
    """A model, an input, and three losses.

    >>> ARCHITECTURES["mlp"].losses(ARCHITECTURES["mlp"].model()).shape
    torch.Size([3])
    """

    name: str
    """Its key in ``ARCHITECTURES``."""
    build: Callable[[], nn.Module]
    """Makes the model."""
    build_input: Callable[[], Tensor]
    """Makes the input, a batch of three."""
    per_instance: bool = True
    """Whether each loss depends on its own instance alone; if not, each on the whole batch."""

    def model(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The model in ``dtype``, with the same parameters every time."""
        with seeded(0):
            return self.build().to(dtype)

    def input(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """The same batch every time, in ``dtype``, instances along the first dimension."""
        with seeded(1):
            batch = self.build_input()
        return batch.to(dtype) if batch.is_floating_point() else batch

    def losses(self, model: nn.Module) -> Float[Tensor, "3"]:
        """One forward pass of ``model``."""
        dtype = next(model.parameters()).dtype
        outputs: Tensor = model(self.input(dtype))
        if self.per_instance:
            return (outputs - 0.5).square().flatten(1).mean(1)
        return (outputs - 0.5).square().mean(0)

    def __str__(self) -> str:
        return self.name


class LastState(nn.Module):
    """An LSTM, of whose outputs the last is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, sequence: Float[Tensor, "batch time 3"]) -> Float[Tensor, "batch 4"]:
        """``[batch, time, 3] -> [batch, 4]``."""
        last: Tensor = self.lstm(sequence)[0][:, -1]
        return last


class TiedLanguageModel(nn.Module):
    """The matrix that embeds the tokens also scores them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.hidden = nn.Linear(4, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Float[Tensor, "batch time 6"]:
        """``[batch, time] -> [batch, time, 6]``."""
        scores: Tensor = self.head(self.hidden(self.embedding(tokens)).tanh())
        return scores


class TwiceCalled(nn.Module):
    """One layer is called twice in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, features: Float[Tensor, "batch 4"]) -> Float[Tensor, "batch 4"]:
        """``[batch, 4] -> [batch, 4]``."""
        twice: Tensor = self.layer(self.layer(features).tanh())
        return twice


class BorrowedWeight(nn.Module):
    """A layer's weight is also used directly, without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, features: Float[Tensor, "batch 4"]) -> Float[Tensor, "batch 4"]:
        """``[batch, 4] -> [batch, 4]``."""
        return functional.linear(self.layer(features).tanh(), self.layer.weight.T)


class UnusedParameter(nn.Module):
    """One layer takes no part in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(4, 3)
        self.unused = nn.Linear(4, 2)

    def forward(self, features: Float[Tensor, "batch 4"]) -> Float[Tensor, "batch 3"]:
        """``[batch, 4] -> [batch, 3]``."""
        used: Tensor = self.used(features).sigmoid()
        return used


class SharedTrunk(nn.Module):
    """One trunk, and a head for each of three tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
        self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(3))

    def forward(self, inputs: Float[Tensor, "batch 4"]) -> Float[Tensor, "batch 3"]:
        """``[batch, 4] -> [batch, 3]``."""
        features = self.trunk(inputs)
        return torch.cat([head(features) for head in self.heads], dim=1)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))


def _convolution() -> nn.Module:
    grouped = nn.Conv2d(4, 4, 3, groups=2, stride=2)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GELU(), grouped, nn.Flatten())


def _batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def _group_norm() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten())


def _transformer() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, dropout=0.0, batch_first=True)


def _normal(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(shape, dtype=torch.float64)


def _tokens() -> Tensor:
    return torch.randint(6, (3, 4))


ARCHITECTURES: Final[dict[str, Architecture]] = {
    architecture.name: architecture
    for architecture in (
        Architecture("mlp", _mlp, _normal(3, 4)),
        Architecture("convolution", _convolution, _normal(3, 2, 6, 6)),
        Architecture("batch norm", _batch_norm, _normal(6, 4), per_instance=False),
        Architecture("group norm", _group_norm, _normal(3, 2, 6)),
        Architecture("transformer layer", _transformer, _normal(3, 4, 8)),
        Architecture("lstm", LastState, _normal(3, 5, 3)),
        Architecture("tied weights", TiedLanguageModel, _tokens),
        Architecture("layer called twice", TwiceCalled, _normal(3, 4)),
        Architecture("weight used directly", BorrowedWeight, _normal(3, 4)),
        Architecture("unused parameter", UnusedParameter, _normal(3, 4)),
        Architecture("shared heads", SharedTrunk, _normal(6, 4), per_instance=False),
    )
}
"""By name; each has three objectives."""
