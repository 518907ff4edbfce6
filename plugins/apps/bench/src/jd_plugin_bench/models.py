"""Models of the kinds that people train, none of which needs anything but torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES: Final = 10


@dataclass(frozen=True)
class Subject:
    """A model and its batches."""

    name: str
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batches: tuple[int, ...]


def mlp() -> nn.Module:
    """Three linear layers, 784 to 10."""
    return nn.Sequential(
        nn.Linear(784, 1024),
        nn.ReLU(),
        nn.Linear(1024, 1024),
        nn.ReLU(),
        nn.Linear(1024, CLASSES),
    )


def cnn() -> nn.Module:
    """Three convolutions, two of them grouped, and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1, groups=4),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1, groups=4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 8 * 8, 128),
        nn.ReLU(),
        nn.Linear(128, CLASSES),
    )


class Block(nn.Module):
    """A transformer block with its own attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projections, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of any batch."""
        parts = self.projections(self.before(x)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = parts.transpose(1, 3).unbind(2)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        output: Tensor = x + self.mlp(self.between(x))
        return output


class Classifier(nn.Module):
    """Blocks over a sequence of vectors, the mean of which is classified."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of any batch."""
        output: Tensor = self.head(self.body(x).mean(1))
        return output


def transformer() -> nn.Module:
    """Four blocks with their own attention."""
    return Classifier(nn.Sequential(*(Block(256, 8) for _ in range(4))), 256)


def encoder() -> nn.Module:
    """Four layers of ``nn.TransformerEncoder``."""
    layer = nn.TransformerEncoderLayer(256, 8, 1024, 0.0, batch_first=True)
    return Classifier(nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), 256)


class Residual(nn.Module):
    """A basic block of ResNet, with instance normalisation."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.InstanceNorm2d(after, affine=True),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.InstanceNorm2d(after, affine=True),
        )
        self.short: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.short = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False),
                nn.InstanceNorm2d(after, affine=True),
            )

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of any batch."""
        return functional.relu(self.body(x) + self.short(x))


def resnet18() -> nn.Module:
    """ResNet-18 with instance normalisation."""
    widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    blocks: list[nn.Module] = []
    for before, after, stride in widths:
        blocks += [Residual(before, after, stride), Residual(after, after, 1)]
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.InstanceNorm2d(64, affine=True),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, CLASSES),
    )


class Inverted(nn.Module):
    """A block of MobileNetV2, with group normalisation."""

    def __init__(self, before: int, after: int, stride: int, factor: int) -> None:
        super().__init__()
        width = before * factor
        self.residual = stride == 1 and before == after
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 1, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU6(),
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU6(),
            nn.Conv2d(width, after, 1, bias=False),
            nn.GroupNorm(8, after),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of any batch."""
        output: Tensor = self.body(x)
        return x + output if self.residual else output


def mobilenet() -> nn.Module:
    """A small MobileNetV2 with group normalisation."""
    stages = [(16, 24, 1, 6, 2), (24, 32, 2, 6, 3), (32, 64, 2, 6, 3), (64, 96, 1, 6, 2)]
    blocks: list[nn.Module] = []
    for before, after, stride, factor, count in stages:
        blocks.append(Inverted(before, after, stride, factor))
        blocks += [Inverted(after, after, 1, factor) for _ in range(count - 1)]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.GroupNorm(8, 16),
        nn.ReLU6(),
        *blocks,
        nn.Conv2d(96, 320, 1, bias=False),
        nn.GroupNorm(8, 320),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(320, CLASSES),
    )


SUBJECTS: Final[dict[str, Subject]] = {
    subject.name: subject
    for subject in (
        Subject("mlp", mlp, (784,), (64, 256)),
        Subject("cnn", cnn, (3, 32, 32), (64,)),
        Subject("transformer", transformer, (64, 256), (16, 32)),
        Subject("encoder", encoder, (64, 256), (16, 32)),
        Subject("resnet18", resnet18, (3, 64, 64), (16,)),
        Subject("mobilenet", mobilenet, (3, 32, 32), (8,)),
    )
}
"""By name. ``"encoder"`` is ``nn.TransformerEncoder``, ``"transformer"`` the same by hand."""


def batch_of(subject: Subject, size: int, device: str) -> tuple[Tensor, Tensor]:
    """Inputs and classes."""
    inputs = torch.randn(size, *subject.shape, device=device)
    return inputs, torch.randint(CLASSES, (size,), device=device)
