"""What a method makes of a Jacobian that comes in blocks, one per parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jdframework import linalg
from jdframework.errors import UnsupportedModelError
from jdframework.outcome import Check, Outcome
from jdframework.protocols import TreatsGroups


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

    One that treats groups of parameters apart has a Gramian, and an update, for each.

    :param method: A weighting or an aggregator.
    :param jacobians: One block per parameter, None where no objective depends on it.
    :param losses: The objectives' values, for the methods that need them.
    :param check: Is shown the Gramian of all blocks first.
    :raises ValueError: if every block is None.
    :raises UnsupportedModelError: if one is complex.
    """
    if any(block is not None and block.is_complex() for block in jacobians):
        raise UnsupportedModelError(
            "a complex tensor has gradients that no method can compare: give its real and "
            "imaginary part, torch.view_as_real(…)"
        )
    groups = [
        _Group(inner, [i for i in members if jacobians[i] is not None], jacobians)
        for inner, members in groups_of(method, len(jacobians))
    ]
    groups = [group for group in groups if group.blocks]
    if not groups:
        raise ValueError("the losses depend on none of the parameters that were given")
    total = sum((group.gramian for group in groups[1:]), start=groups[0].gramian)
    if check is not None:
        check(total)
    directions: list[Tensor | None] = [None] * len(jacobians)
    weights = None
    for group in groups:
        weights, found = _applied(group, losses)
        for position, direction in zip(group.members, found, strict=True):
            directions[position] = direction
    if isinstance(method, TreatsGroups):
        weights = None
    return Combination(tuple(directions), Outcome(weights, total))


class _Group:
    """Blocks of the Jacobian that one method is applied to."""

    def __init__(self, method: Any, members: list[int], jacobians: Sequence[Tensor | None]) -> None:
        # An aggregator that was made of a weighting is taken for that.
        self.method: Any = getattr(method, "weighting", method)
        self.members = members
        self.blocks = [block for i in members if (block := jacobians[i]) is not None]

    @cached_property
    def gramian(self) -> Tensor:
        return linalg.gramian(self.blocks)


def groups_of(method: Any, blocks: int) -> Sequence[tuple[Any, Sequence[int]]]:
    """Which method serves which blocks of a Jacobian; one that treats no groups serves all.

    :param method: A weighting or an aggregator.
    :param blocks: How many blocks the Jacobian has.
    """
    return method.groups(blocks) if isinstance(method, TreatsGroups) else [(method, range(blocks))]


def _applied(group: _Group, losses: Tensor | None) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """The weights, if there are any, and one direction per block."""
    method, blocks = group.method, group.blocks
    if method.kind == "weighting":
        weights = weights_of(method, group.gramian, blocks, losses)
        return weights, linalg.weighted_sum(blocks, weights)
    return None, _split(method(_joined(blocks), **extra_for(method, losses)), blocks)


def weights_of(
    weighting: Any,
    gramian: Float[Tensor, "m m"],
    blocks: Sequence[Float[Tensor, "m *shape"]],
    losses: Float[Tensor, " m"] | None,
) -> Float[Tensor, " m"]:
    """The weights, the weighting being given what it says it needs."""
    statistic = _joined(blocks) if "jacobian" in weighting.needs else gramian
    weights: Tensor = weighting(statistic, **extra_for(weighting, losses))
    return weights


def extra_for(method: Any, losses: Tensor | None) -> dict[str, Tensor]:
    """What the method needs beside its statistic, by name.

    :param method: A weighting or an aggregator.
    :param losses: The objectives' values, if they are known.
    """
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
