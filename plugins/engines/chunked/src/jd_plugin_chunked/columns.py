"""Gramians, weighted sums and directions of a Jacobian, a block of columns at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from jdframework import linalg
from jdframework.linalg.single import narrowed
from jdframework.linearization import RowFunction
from jdframework.linearization.blocks import as_reals

from jd_plugin_chunked.layout import Layout
from jd_plugin_chunked.out_of_memory import OutOfMemory, attempt
from jd_plugin_chunked.rows import Rows

_COPIES_OF_A_PRODUCT: Final = 2
_COPIES_OF_AN_AGGREGATION: Final = 6
"""Beside the block, what sorts its columns holds their values and int64 indices."""


def gramian(rows: Rows, positions: Sequence[int]) -> Float[Tensor, "m m"]:
    """``J Jᵀ`` over the columns of some inputs; the blocks' are added in double precision.

    :param rows: The Jacobian.
    :param positions: Of the inputs.
    """
    dtype = torch.promote_types(rows.layout.dtype, torch.float32)
    device = rows.layout.device
    added_in = dtype if device.type == "mps" else torch.float64
    total = torch.zeros((rows.m, rows.m), dtype=added_in, device=device)

    def add(start: int, stop: int) -> None:
        total.add_(linalg.gramian([rows.block(start, stop)]))

    _each_block(rows, positions, add, _COPIES_OF_A_PRODUCT)
    return total if dtype == added_in else narrowed(total, total.diagonal())


def weighted_sum(
    rows: Rows, positions: Sequence[int], weights: Float[Tensor, " m"]
) -> list[Tensor]:
    """``Jᵀw``, one tensor per input.

    :param rows: The Jacobian.
    :param positions: Of the inputs.
    :param weights: One per row.
    """
    direction = Direction(rows.layout, positions)

    def add(start: int, stop: int) -> None:
        (values,) = linalg.weighted_sum([rows.block(start, stop)], weights)
        direction.write(start, stop, values)

    _each_block(rows, positions, add, _COPIES_OF_A_PRODUCT)
    return direction.blocks


def aggregated(rows: Rows, positions: Sequence[int], function: RowFunction) -> list[Tensor]:
    """What a function gives of all columns, one value each: one tensor per input.

    :param rows: The Jacobian.
    :param positions: Of the inputs.
    :param function: Gives the values of some columns.
    """
    direction = Direction(rows.layout, positions)

    def add(start: int, stop: int) -> None:
        block = rows.block(start, stop)
        with function.repeatable():
            values = function(block)
        direction.write(start, stop, values)

    _each_block(rows, positions, add, _COPIES_OF_AN_AGGREGATION)
    return direction.blocks


class Direction:
    """An update under way: one tensor per input, written in ranges of columns.

    :param layout: Of the columns.
    :param positions: Of the inputs.
    """

    def __init__(self, layout: Layout, positions: Sequence[int]) -> None:
        self._layout = layout
        self._flat = {
            position: torch.empty_like(
                layout.inputs[position], memory_format=torch.contiguous_format, requires_grad=False
            )
            for position in positions
        }

    @property
    def blocks(self) -> list[Tensor]:
        """One tensor per input."""
        return list(self._flat.values())

    def write(self, start: int, stop: int, values: Float[Tensor, " n"]) -> None:
        """Fills some columns.

        :param start: The first column.
        :param stop: The one after the last.
        :param values: One per column.
        """
        for part in self._layout.tensors_in(start, stop):
            as_reals(self._flat[part.position]).view(-1)[part.within] = values[part.at]


def _each_block(
    rows: Rows, positions: Sequence[int], use: Callable[[int, int], None], copies: int
) -> None:
    """Calls ``use`` on ranges of columns in order, on half as many where memory runs out."""
    for first, last in rows.layout.ranges(positions):
        start = first
        while start < last:
            width = min(rows.budget.columns(rows.m, rows.layout, copies), last - start)
            result = attempt(partial(use, start, start + width))
            if isinstance(result, OutOfMemory):
                rows.budget.take_fewer_columns(rows.m, width, result)
            else:
                start += width
