"""What a method makes of a Jacobian that is given block by block, as an engine would give it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from jdframework.linearization import JacobianRows
from jdframework.linearization.combination import combine, groups_of, pullback


class Combined(NamedTuple):
    """What a method answers to a Jacobian."""

    directions: tuple[Tensor | None, ...]
    """One for each block, of its shape without the rows; None for a block that is None."""
    weights: Float[Tensor, " m"] | None
    """Those of all parameters together, if the method has such."""
    gramian: Float[Tensor, "m m"] | None
    """The one that the method saw."""


def combine_blocks(
    method: Any, blocks: Sequence[Tensor | None], *, losses: Float[Tensor, " m"] | None = None
) -> Combined:
    """Combines the rows of a Jacobian that is split by parameter, on the way that a step takes.

    :param method: A weighting or an aggregator.
    :param blocks: ``[m, *shape]`` for each parameter; None where no objective depends on it.
    :param losses: For a method that looks at them.
    """
    like: list[Any] = [None if block is None else block[0] for block in blocks]
    rows = JacobianRows(like, blocks, groups_of(method, len(blocks)))
    made = combine(rows, rows.gramians(), method, losses)
    by_input = {id(t): g for t, g in zip(*pullback(rows, made), strict=True)}
    directions = tuple(None if t is None else by_input[id(t)] for t in like)
    return Combined(directions, made.of_all, made.gramian)
