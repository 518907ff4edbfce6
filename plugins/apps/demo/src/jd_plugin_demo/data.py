"""Two handwritten digits laid over each other, and the question which is left and which right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

SCAN_SIZE: Final = 8
SHIFT_DOWN: Final = 2
SHIFT_RIGHT: Final = 4
HEIGHT: Final = SCAN_SIZE + SHIFT_DOWN
WIDTH: Final = SCAN_SIZE + SHIFT_RIGHT
CLASSES: Final = 10

_TEST_SHARE: Final = 0.25
_BRIGHTEST: Final = 16.0


@dataclass(frozen=True)
class Scans:
    """Single digits as they were scanned, brightness 0 to 1."""

    images: Float[Tensor, "s 8 8"]
    labels: Int[Tensor, " s"]


@dataclass(frozen=True)
class Pairs:
    """Overlaid pairs. Each of the two digits is one task."""

    images: Float[Tensor, "n 1 10 12"]
    labels: Int[Tensor, "n 2"]
    """The left digit, which lies higher, and the right one, which lies lower."""
    sources: Int[Tensor, "n 2"]
    """The scans that were laid over each other, as indices into :class:`Scans`."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Digits:
    """The whole data set. No scan is in both parts."""

    scans: Scans
    train: Pairs
    test: Pairs


def load_scans() -> Scans:
    """The 1797 scans that scikit-learn ships."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy(found.images).to(torch.float32) / _BRIGHTEST
    return Scans(images, torch.from_numpy(found.target).long())


def overlaid_digits(train_pairs: int, test_pairs: int, seed: int) -> Digits:
    """Splits the scans in two, then draws pairs within each part.

    :param train_pairs: How many pairs to train on.
    :param test_pairs: How many pairs to hold out.
    :param seed: The same seed gives the same pairs.
    """
    scans = load_scans()
    generator = Generator().manual_seed(seed)
    shuffled = torch.randperm(len(scans.labels), generator=generator)
    held_out = round(_TEST_SHARE * len(shuffled))
    return Digits(
        scans,
        train=_drawn(scans, shuffled[held_out:], train_pairs, generator),
        test=_drawn(scans, shuffled[:held_out], test_pairs, generator),
    )


def overlay(
    left: Float[Tensor, "n 8 8"], right: Float[Tensor, "n 8 8"]
) -> Float[Tensor, "n 1 10 12"]:
    """Lays each right scan over the left one, shifted; the brighter of two pixels wins.

    >>> overlay(torch.ones(1, 8, 8), torch.zeros(1, 8, 8)).sum().item()
    64.0
    """
    canvas = left.new_zeros(len(left), 1, HEIGHT, WIDTH)
    canvas[:, 0, :SCAN_SIZE, :SCAN_SIZE] = left
    shifted = canvas[:, 0, SHIFT_DOWN:, SHIFT_RIGHT:]
    shifted.copy_(torch.maximum(shifted, right))
    return canvas


def _drawn(scans: Scans, part: Int[Tensor, " p"], count: int, generator: Generator) -> Pairs:
    sources = part[torch.randint(len(part), (count, 2), generator=generator)]
    images = overlay(scans.images[sources[:, 0]], scans.images[sources[:, 1]])
    return Pairs(images, scans.labels[sources], sources)
