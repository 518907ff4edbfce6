"""The network that every method trains: one trunk, and one head for each of the two digits."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jd_plugin_demo.data import CLASSES, HEIGHT, WIDTH

TASKS: Final = ("left", "right")
_FEATURES: Final = 64


class TwoDigits(nn.Module):
    """A small convolutional trunk and two linear heads.

    :param seed: The same seed gives the same weights.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.trunk = _trunk()
            self.heads = nn.ModuleDict({task: nn.Linear(_FEATURES, CLASSES) for task in TASKS})

    def logits(self, features: Float[Tensor, "n 64"]) -> dict[str, Float[Tensor, "n 10"]]:
        """What each task's head makes of the trunk's output."""
        return {task: self.heads[task](features) for task in TASKS}

    def forward(self, images: Float[Tensor, "n 1 10 12"]) -> dict[str, Float[Tensor, "n 10"]]:
        """The logits of each task, by its name."""
        return self.logits(self.trunk(images))


def _trunk() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (HEIGHT // 4) * (WIDTH // 4), _FEATURES),
        nn.ReLU(),
    )
