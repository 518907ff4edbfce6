"""What a method makes of a Jacobian that comes in blocks, one per parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jdframework import linalg
from jdframework.bases import WeightedSum
from jdframework.outcome import Check, Outcome


@dataclass(frozen=True)
class Combination:
    """An update, one block per parameter, and how it came about."""

    directions: tuple[Tensor | None, ...]
    """None where no objective depends on the parameter."""
    outcome: Outcome


def combine(
    method: Any,
    jacobians: Sequence[Float[Tensor, "m *shape"] | None],
    *,
    losses: Float[Tensor, " m"] | None = None,
    check: Check | None = None,
) -> Combination:
    """Applies a weighting or an aggregator to a Jacobian without joining its blocks needlessly.

    :param method: A weighting or an aggregator.
    :param jacobians: One block per parameter, None where no objective depends on it.
    :param losses: The objectives' values, for the methods that need them.
    :param check: Is shown the Gramian first.
    :raises ValueError: if every block is None.
    """
    blocks = [block for block in jacobians if block is not None]
    if not blocks:
        raise ValueError("the losses depend on none of the parameters that were given")
    gramian = linalg.gramian(blocks)
    if check is not None:
        check(gramian)
    weighting: Any = method.weighting if isinstance(method, WeightedSum) else method
    if weighting.kind == "weighting":
        weights = weights_of(weighting, gramian, blocks, losses)
        found = linalg.weighted_sum(blocks, weights)
    else:
        weights = None
        found = _split(weighting(_joined(blocks), **_extra(weighting, losses)), blocks)
    remaining = iter(found)
    directions = tuple(None if block is None else next(remaining) for block in jacobians)
    return Combination(directions, Outcome(weights, gramian))


def weights_of(
    weighting: Any,
    gramian: Float[Tensor, "m m"],
    blocks: Sequence[Float[Tensor, "m *shape"]],
    losses: Float[Tensor, " m"] | None,
) -> Float[Tensor, " m"]:
    """The weights, the weighting being given what it says it needs."""
    statistic = _joined(blocks) if "jacobian" in weighting.needs else gramian
    weights: Tensor = weighting(statistic, **_extra(weighting, losses))
    return weights


def _extra(method: Any, losses: Tensor | None) -> dict[str, Tensor]:
    """What the method needs beside its statistic, by name."""
    if losses is None or "losses" not in method.needs:
        return {}
    return {"losses": losses.flatten()}


def _joined(blocks: Sequence[Tensor]) -> Tensor:
    return torch.cat([block.reshape(len(block), -1) for block in blocks], dim=1)


def _split(direction: Tensor, blocks: Sequence[Tensor]) -> tuple[Tensor, ...]:
    parts = torch.split(direction, [block[0].numel() for block in blocks])
    return tuple(
        part.to(block.dtype).reshape(block.shape[1:])
        for part, block in zip(parts, blocks, strict=True)
    )
