"""What a method makes of a Jacobian of which only columns, or rows kept elsewhere, can be had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from jdframework.combination import Combination, extra_for, groups_of
from jdframework.outcome import Check, Outcome
from jdframework.protocols import TreatsGroups

from jd_plugin_chunked import columns
from jd_plugin_chunked.rewinding import Rewinding
from jd_plugin_chunked.rows import KeptRows, RecomputedRows, Rows
from jd_plugin_chunked.shortage import Shortage, attempt


def needs_whole_rows(method: Any, blocks: int) -> bool:
    """Whether a method, or one of those it consists of, is a function of the whole Jacobian.

    :param method: A weighting or an aggregator.
    :param blocks: How many blocks the Jacobian has.
    """
    return any(_is_of_the_whole(_bare(inner)) for inner, _ in groups_of(method, blocks))


def combine(
    method: Any,
    rows: Rows,
    reached: Sequence[int],
    blocks: int,
    *,
    losses: Float[Tensor, " m"] | None,
    check: Check | None,
    retain_graph: bool,
) -> Combination:
    """As :func:`jdframework.combination.combine`, without a Jacobian on the device.

    :param method: A weighting or an aggregator.
    :param rows: The Jacobian, without the blocks on which no objective depends.
    :param reached: Which of the blocks these are.
    :param blocks: How many blocks the Jacobian has.
    :param losses: The objectives' values, for the methods that need them.
    :param check: Is shown the Gramian of all blocks first.
    :param retain_graph: Whether the graph can be used again.
    """
    there = {block: position for position, block in enumerate(reached)}
    groups = [
        (_bare(inner), [there[member] for member in members if member in there])
        for inner, members in groups_of(method, blocks)
    ]
    groups = [(inner, positions) for inner, positions in groups if positions]
    gramians = [columns.gramian(rows, positions) for _, positions in groups]
    total = sum(gramians[1:], start=gramians[0])
    if check is not None:
        check(total)
    directions: list[Tensor | None] = [None] * blocks
    weights = None
    for (inner, positions), gramian in zip(groups, gramians, strict=True):
        extra = extra_for(inner, losses)
        keep = retain_graph or positions is not groups[-1][1]
        weights, found = _applied(inner, rows, positions, gramian, extra, keep)
        for position, direction in zip(positions, found, strict=True):
            directions[reached[position]] = direction
    if isinstance(method, TreatsGroups):
        weights = None
    return Combination(tuple(directions), Outcome(weights, total))


def _bare(method: Any) -> Any:
    """An aggregator that was made of a weighting is taken for that."""
    return getattr(method, "weighting", method)


def _is_of_the_whole(method: Any) -> bool:
    if method.kind == "weighting":
        return "jacobian" in method.needs
    return not getattr(method, "column_wise", False)


def _applied(
    method: Any,
    rows: Rows,
    positions: Sequence[int],
    gramian: Tensor,
    extra: dict[str, Tensor],
    retain_graph: bool,
) -> tuple[Tensor | None, list[Tensor]]:
    """The weights, if there are any, and one direction per input."""
    if method.kind == "weighting":
        weights = _weights(method, rows, positions, gramian, extra)
        if isinstance(rows, RecomputedRows):
            return weights, rows.weighted(weights, positions, retain_graph)
        return weights, columns.weighted_sum(rows, positions, weights)
    if not _is_of_the_whole(method):
        return None, columns.aggregated(rows, positions, method, extra)
    direction = columns.Direction(rows.layout, positions)
    values, start = _of_the_whole(method, rows, positions, extra), 0
    for first, last in rows.layout.ranges(positions):
        direction.write(first, last, values[start : start + last - first])
        start += last - first
    return None, direction.blocks


def _weights(
    method: Any, rows: Rows, positions: Sequence[int], gramian: Tensor, extra: dict[str, Tensor]
) -> Tensor:
    if _is_of_the_whole(method):
        return _of_the_whole(method, rows, positions, extra)
    weights: Tensor = method(gramian, **extra)
    return weights


def _of_the_whole(
    method: Any, rows: Rows, positions: Sequence[int], extra: dict[str, Tensor]
) -> Tensor:
    """Calls a method on the rows where they lie; in the next place where memory runs out there."""
    assert isinstance(rows, KeptRows)

    def call() -> Tensor:
        statistic = rows.joined(positions)
        beside = {name: value.to(statistic.device) for name, value in extra.items()}
        with Rewinding(method):
            result: Tensor = method(statistic, **beside)
        return result

    result = attempt(call)
    while isinstance(result, Shortage):
        if not rows.move(result):
            raise result.error
        result = attempt(call)
    return result.to(rows.layout.device)
