"""Labels beside the ends of curves, kept from covering each other."""

from __future__ import annotations

from collections.abc import Sequence


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves labels apart, as little as it takes, until no two are closer than ``gap``.

    :param positions: Where each label would like to be.
    :param gap: The least distance between two.
    :param low: None goes below.
    :param high: None goes above, as far as there is room for all.

    >>> spread([0.5, 0.5, 0.9], gap=0.25, low=0.0, high=1.0)
    [0.375, 0.625, 0.9]
    """

    def start(group: list[int]) -> float:
        height = gap * (len(group) - 1)
        centred = sum(positions[index] for index in group) / len(group) - height / 2
        return max(low, min(centred, high - height))

    groups: list[list[int]] = []
    for index in sorted(range(len(positions)), key=positions.__getitem__):
        groups.append([index])
        while len(groups) > 1 and start(groups[-1]) - start(groups[-2]) < gap * len(groups[-2]):
            groups[-2:] = [groups[-2] + groups[-1]]
    placed = {
        index: start(group) + rank * gap for group in groups for rank, index in enumerate(group)
    }
    return [placed[index] for index in range(len(positions))]
