"""The linearization of chunked: rows that are kept somewhere, or recomputed when needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cached_property, partial
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from jdframework.bases.jacobian_engine import COPIES, Starts
from jdframework.linearization import Demand, Forecast, Gradients, Linearization, RowFunction, split
from jdframework.linearization.blocks import of_reals
from jdframework.linearization.combination import NOTHING_REACHED

from jd_plugin_chunked import columns, storage
from jd_plugin_chunked.budget import Budget
from jd_plugin_chunked.layout import Layout
from jd_plugin_chunked.out_of_memory import OutOfMemory, attempt, is_out_of_memory
from jd_plugin_chunked.passes import Passes
from jd_plugin_chunked.rows import KeptRows, RecomputedRows, Rows

if TYPE_CHECKING:
    from jd_plugin_chunked.engine import Chunked


class ChunkedLinearization(Linearization):
    """Rows in chunks, kept on the device, the host or the disk, or taken again when needed.

    :param engine: What knows the memory.
    :param starts: What the rows are of.
    :param passes: What takes them through the graph.
    :param groups: Positions of inputs; one group of all when None.
    :param need: What will be asked for.
    :param retain_graph: Whether the graph can be used again.
    """

    def __init__(
        self,
        engine: Chunked,
        starts: Starts,
        passes: Passes,
        groups: Sequence[Sequence[int]] | None,
        need: Demand,
        retain_graph: bool,
    ) -> None:
        self.inputs, self.outside = starts.columns, starts.outside
        self.groups = [range(len(self.inputs))] if groups is None else groups
        self._engine, self._passes, self._starts = engine, passes, starts
        self._is_whole, self._need = need == "rows", need
        self._retain = retain_graph
        self._reached = [i for i, t in enumerate(self.inputs) if starts.graph.reaches(t)]
        there = {position: number for number, position in enumerate(self._reached)}
        self._members = [[there[i] for i in group if i in there] for group in self.groups]
        self._known_rows: Rows | None = None

    def gramians(self) -> list[Float[Tensor, "m m"] | None]:
        """See :meth:`jdframework.linearization.Linearization.gramians`."""
        if not self._reached:
            return [None for _ in self.groups]
        with self._forgetting_failures():
            rows = self._rows()
            return [columns.gramian(rows, own) if own else None for own in self._members]

    def vjp(self, weights: Sequence[Float[Tensor, " m"] | None]) -> Gradients:
        """See :meth:`jdframework.linearization.Linearization.vjp`."""
        tensors: list[Tensor] = []
        found: list[Tensor | None] = []
        pairs = [(w, own) for w, own in zip(weights, self._members, strict=True) if w is not None]
        with self._forgetting_failures():
            for number, (weight, own) in enumerate(pairs):
                tensors += [self._layout.inputs[position] for position in own]
                if isinstance(self._known_rows, KeptRows):
                    found += columns.weighted_sum(self._known_rows, own, weight)
                else:
                    last = number == len(pairs) - 1 and not self.outside
                    found += self._weighted(weight, own, self._retain or not last)
            if self.outside and weights[0] is not None:
                found += self._passes.weighted(weights[0], self.outside, self._retain)
                tensors += self.outside
        return tensors, found

    def blocks(self) -> Iterator[tuple[int, Float[Tensor, "m *shape"]]]:
        """See :meth:`jdframework.linearization.Linearization.blocks`; on the device."""
        if not self._reached:
            return
        rows = self._rows()
        for number, position in enumerate(self._reached):
            tensor, mine = self.inputs[position], self._layout.columns(number)
            block = rows.block(mine.start, mine.stop)
            yield position, of_reals(block, (rows.m, *tensor.shape), tensor.dtype)

    def jacobian(self) -> tuple[Float[Tensor, "m *shape"] | None, ...]:
        """The blocks where the rows are kept; a file goes with its last tensor."""
        found: list[Tensor | None] = [None] * len(self.inputs)
        if self._reached:
            with self._forgetting_failures():
                rows = self._kept()
            for position, block in zip(self._reached, rows.layout.blocks(rows.matrix), strict=True):
                found[position] = block
        return tuple(found)

    def weigh(self, function: RowFunction, group: int) -> Float[Tensor, " m"]:
        """Of the rows where they lie; in the next place where memory runs out there."""
        with self._forgetting_failures():
            return self._of_the_whole(function, group)

    def direct(self, function: RowFunction, group: int, *, column_wise: bool) -> Gradients:
        """Of some columns at a time; of all, and where the rows lie, if it is not column-wise."""
        own = self._members[group]
        inputs = [self._layout.inputs[position] for position in own]
        with self._forgetting_failures():
            if column_wise:
                return inputs, [*columns.aggregated(self._rows(), own, function)]
            return inputs, [*split(self._of_the_whole(function, group), inputs)]

    def forecast(self) -> Forecast:
        """See :meth:`jdframework.linearization.Linearization.forecast`.

        :raises ValueError: if nothing depends on any input.
        """
        if not self._reached:
            raise ValueError(NOTHING_REACHED)
        m, layout = self._passes.m, self._layout
        budget = copy(self._engine.budget) or self._engine.new_budget(layout)
        rows = min(budget.rows(layout), m) if self._passes.batched else 1
        taken = "one objective at a time" if rows == 1 else f"{rows} of {m} objectives at once"
        reached = sum(t.numel() * t.dtype.itemsize for t in layout.inputs)
        held = min(budget.size, COPIES[self._need] * m * reached)
        if self._is_recomputed(budget):
            return Forecast(f"{taken}, again for each block of columns", held)
        return Forecast(f"{taken}, kept on the {self._places(budget)[0]}", held)

    def close(self) -> None:
        """Lets go of the rows."""
        self._known_rows = None

    @cached_property
    def _layout(self) -> Layout:
        return Layout([self.inputs[i] for i in self._reached])

    @property
    def _budget(self) -> Budget:
        if self._engine.budget is None:
            self._engine.budget = self._engine.new_budget(self._layout)
        return self._engine.budget

    def _rows(self) -> Rows:
        if self._known_rows is None:
            self._known_rows = self._new_rows()
        return self._known_rows

    def _new_rows(self) -> Rows:
        if self._engine.config.offload is not None or self._is_whole:
            return self._kept()
        budget = self._budget
        if not self._is_recomputed(budget):
            kept = attempt(self._kept)
            if not isinstance(kept, OutOfMemory):
                return kept
            if self._passes.freed:
                raise kept.error
            budget.leave_device()
            budget.tell(kept, "takes the rows again for each block of columns")
        return RecomputedRows(self._passes, self._layout, budget)

    def _kept(self) -> KeptRows:
        return KeptRows(
            self._passes,
            self._layout,
            self._budget,
            self._places(self._budget),
            self._engine.config.directory,
            self._retain or bool(self.outside),
        )

    def _is_recomputed(self, budget: Budget) -> bool:
        """Whether the rows are taken again each time, because they do not fit."""
        if self._engine.config.offload is not None or self._is_whole:
            return False
        return not budget.holds(self._passes.m, self._layout)

    def _places(self, budget: Budget) -> list[storage.Place]:
        """Where rows may lie, the best first."""
        offload = self._engine.config.offload
        if offload is None:
            return ["device"]
        if offload != "auto":
            return [offload]
        m, layout = self._passes.m, self._layout
        places: list[storage.Place] = ["disk"]
        if layout.device.type != "cpu" and storage.host_has_room(m, layout):
            places.insert(0, "host")
        if budget.holds(m, layout):
            places.insert(0, "device")
        return places

    def _weighted(self, weight: Tensor, own: Sequence[int], retain_graph: bool) -> list[Tensor]:
        rows = RecomputedRows(self._passes, self._layout, self._budget)
        return rows.weighted(weight, own, retain_graph)

    def _of_the_whole(self, function: RowFunction, group: int) -> Tensor:
        rows = self._rows()
        assert isinstance(rows, KeptRows)
        call: Callable[[], Tensor] = partial(_called, function, rows, self._members[group])
        result = attempt(call)
        while isinstance(result, OutOfMemory):
            if not rows.move(result):
                raise result.error
            result = attempt(call)
        return result.to(self._layout.device)

    @contextmanager
    def _forgetting_failures(self) -> Iterator[None]:
        """Where nothing was little enough, memory may be free again in the next step."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                self._engine.budget = None
            raise


def _called(function: RowFunction, rows: KeptRows, own: Sequence[int]) -> Tensor:
    with function.repeatable():
        return function(rows.joined(own))
