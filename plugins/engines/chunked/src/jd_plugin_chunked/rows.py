"""The rows of a Jacobian, any columns at a time: kept somewhere, or recomputed each time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from jdframework.linearization.blocks import as_reals

from jd_plugin_chunked.budget import Budget
from jd_plugin_chunked.layout import Layout, TensorColumns
from jd_plugin_chunked.out_of_memory import OutOfMemory, attempt
from jd_plugin_chunked.passes import Passes
from jd_plugin_chunked.storage import Place, matrix
from jd_plugin_chunked.transfer import on_device, transfer_to

Put: TypeAlias = Callable[[int, int, Sequence[Tensor | None]], None]
"""Takes a chunk: its first row, how many there are, and ``[count, *input.shape]`` per input."""


class Rows(ABC):
    """A Jacobian ``[m, n]`` that need not be anywhere as a whole.

    :param passes: What takes rows through the graph.
    :param layout: Of the columns.
    :param budget: How much to take at once.
    """

    def __init__(self, passes: Passes, layout: Layout, budget: Budget) -> None:
        self.m, self.layout, self.budget = passes.m, layout, budget
        self._passes = passes

    @abstractmethod
    def block(self, start: int, stop: int) -> Tensor:
        """Some columns of all rows, on the device; not to be written to.

        :param start: The first column.
        :param stop: The one after the last.
        """

    def _take_all(
        self,
        inputs: Sequence[Tensor],
        put: Put,
        retain_graph: bool,
        make_room: Callable[[OutOfMemory], bool] = lambda _: False,
    ) -> None:
        """Takes all rows, in chunks.

        The last row goes alone where it frees the graph: what frees it cannot be tried again.

        :param inputs: With respect to what.
        :param put: Is given each chunk; twice, if memory runs out in it.
        :param retain_graph: Whether the graph can be used again.
        :param make_room: Where memory runs out with one row: whether it is worth another try.
        """
        first = 0
        while first < self.m:
            left = self.m - first if retain_graph else max(self.m - first - 1, 1)
            count = min(self.budget.rows(self.layout), left) if self._passes.batched else 1
            keep = retain_graph or first + count < self.m
            taken = attempt(partial(self._chunk, first, count, inputs, put, keep))
            if not isinstance(taken, OutOfMemory):
                first += count
            elif self._passes.freed:
                raise taken.error
            elif count > 1:
                self.budget.take_fewer_rows(count, taken)
            elif not make_room(taken):
                raise taken.error

    def _chunk(
        self, first: int, count: int, inputs: Sequence[Tensor], put: Put, retain_graph: bool
    ) -> None:
        put(first, count, self._passes.take(first, count, inputs, retain_graph))


class KeptRows(Rows):
    """Rows that were taken once, and lie on the device, on the host or on disk.

    :param passes: What takes rows through the graph.
    :param layout: Of the columns.
    :param budget: How much to take at once.
    :param places: Where they may lie, the best first; more than one only if the next is taken
        where memory runs out.
    :param directory: Where files go.
    :param retain_graph: Whether the graph can be used again.
    """

    def __init__(
        self,
        passes: Passes,
        layout: Layout,
        budget: Budget,
        places: Sequence[Place],
        directory: str | None,
        retain_graph: bool,
    ) -> None:
        super().__init__(passes, layout, budget)
        self._places, self._directory = list(places), directory
        self.matrix = self._allocated()
        self._transfer = transfer_to(self.matrix, layout)
        self._take_all(layout.inputs, self._put, retain_graph, self.move)
        self._transfer.finish()

    @property
    def place(self) -> Place:
        """Where they lie now."""
        return self._places[0]

    def block(self, start: int, stop: int) -> Tensor:
        """See :meth:`Rows.block`."""
        return on_device(self.matrix, start, stop, self.layout.device)

    def joined(self, positions: Sequence[int]) -> Tensor:
        """The columns of some inputs, where the rows lie.

        :param positions: Of the inputs.
        """
        parts = [self.matrix[:, start:stop] for start, stop in self.layout.ranges(positions)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def move(self, failure: OutOfMemory) -> bool:
        """Moves what is there to the next place; False if there is none.

        :param failure: Why.
        """
        if len(self._places) == 1:
            return False
        self._transfer.finish()
        self._leave_place(failure)
        moved = self._allocated()
        moved.copy_(self.matrix)
        self.matrix = moved
        self._transfer = transfer_to(moved, self.layout)
        return True

    def _allocated(self) -> Tensor:
        while True:
            found = attempt(partial(matrix, self.place, self.m, self.layout, self._directory))
            if not isinstance(found, OutOfMemory):
                return found
            if len(self._places) == 1:
                raise found.error
            self._leave_place(found)

    def _leave_place(self, failure: OutOfMemory) -> None:
        left = self._places.pop(0)
        self.budget.leave_device()
        self.budget.tell(failure, f"keeps the rows on the {self.place} instead of the {left}")

    def _put(self, first: int, count: int, found: Sequence[Tensor | None]) -> None:
        self._transfer.put(first, count, found)


class RecomputedRows(Rows):
    """Rows that are not kept: the columns that are asked for are recomputed through the graph.

    Each block of columns costs ``m`` backward passes, which only go down to the tensors that the
    columns belong to, and compute no other gradients.

    The graph stays.
    """

    def block(self, start: int, stop: int) -> Tensor:
        """See :meth:`Rows.block`."""
        parts = list(self.layout.tensors_in(start, stop))
        shape = (self.m, stop - start)
        block = torch.empty(shape, dtype=self.layout.dtype, device=self.layout.device)
        inputs = [self.layout.inputs[part.position] for part in parts]
        self._take_all(inputs, _Columns(block, parts).put, retain_graph=True)
        return block

    def weighted(
        self, weights: Tensor, positions: Sequence[int], retain_graph: bool
    ) -> list[Tensor]:
        """The weighted sum of all rows for some inputs, by one backward pass.

        :param weights: One per row.
        :param positions: Of the inputs.
        :param retain_graph: Whether the graph can be used again.
        """
        inputs = [self.layout.inputs[position] for position in positions]
        found = self._passes.weighted(weights, inputs, retain_graph)
        return [
            torch.zeros_like(tensor) if gradient is None else gradient
            for tensor, gradient in zip(inputs, found, strict=True)
        ]


class _Columns:
    """Takes of each row what belongs to a block of columns."""

    def __init__(self, block: Tensor, parts: Sequence[TensorColumns]) -> None:
        self._block, self._parts = block, parts

    def put(self, first: int, count: int, found: Sequence[Tensor | None]) -> None:
        for part, gradient in zip(self._parts, found, strict=True):
            target = self._block[first : first + count, part.at]
            if gradient is None:
                target.zero_()
            else:
                target.copy_(as_reals(gradient).reshape(count, -1)[:, part.within])
