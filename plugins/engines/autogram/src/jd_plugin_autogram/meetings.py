"""The places where what instances share meets what they do not, and the rows found there.

The shares of a meeting's output give a row per objective of what came in, and the derivative of
what was made of the parameters takes these rows to them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from jdframework.autograd import graph
from jdframework.autograd.graph import Place, stacked
from jdframework.autograd.retained_gradients import drop_dead_gradients
from jdframework.autograd.sparse import dense
from jdframework.autograd.vmap import batched_gradients

from jd_plugin_autogram.contributions import Contribution
from jd_plugin_autogram.factors import Factors, Rows
from jd_plugin_autogram.layout import Layout
from jd_plugin_autogram.operations import TensorUse
from jd_plugin_autogram.probe_cache import ProbeCache

_BATCHED: Final = 8
"""From how many rows on they go through a transformation together."""


@dataclass(frozen=True, eq=False)
class Meeting:
    """A place where what instances share meets what they do not."""

    output: GradientEdge
    layout: Layout
    shared: Place
    """Where the shared tensor that comes in stands in the graph."""
    use: TensorUse | None
    """The operation's rule for it, where there is one."""


class Separation(Contribution):
    """All meetings of some parameters, and the way from there to the parameters.

    :param meetings: They cut every path that is to be counted.
    :param wanted: The parameters.
    :param kind: Of the graph.
    :param cache: What was found out about such graphs; it is added to.
    """

    def __init__(
        self,
        meetings: Sequence[Meeting],
        wanted: Sequence[nn.Parameter],
        kind: Hashable,
        cache: ProbeCache,
    ) -> None:
        super().__init__([meeting.output for meeting in meetings], wanted)
        self.meetings = meetings
        self._kind, self._cache = kind, cache
        self.layouts = [meeting.layout for meeting in meetings]

    @property
    def of_shared(self) -> bool:
        """Whether all that comes in is smaller than what goes out, as what instances share is."""
        return all(
            math.prod(shape_of(m.shared)) < math.prod(shape)
            for m, shape in zip(self.meetings, self.shapes, strict=True)
        )

    @property
    def needs_graph(self) -> bool:
        """Whether the graph is needed once more after the backward pass: for the way back."""
        return True

    def saves(self, k: int) -> bool:
        """Never: autograd's own rows take the same passes."""
        return False

    def dims(self, shape: tuple[int, ...]) -> Sequence[int]:
        """Instances may lie along any dimension."""
        return range(len(shape))

    def factors(
        self, gradients: Sequence[Tensor | None], layouts: Sequence[Layout]
    ) -> list[Factors]:
        """The rows of what came in, taken back to the parameters."""
        leaves = {id(p): p for p in self.wanted}
        found: list[Factors] = []
        rows: dict[Place, Tensor] = {}
        for meeting, gradient, layout in zip(self.meetings, gradients, layouts, strict=True):
            if gradient is None:
                continue
            place = meeting.shared
            if meeting.use is None:
                block = _one_by_one(meeting, gradient, layout)
            else:
                leaf = leaves.get(id(getattr(place[0], "variable", None)))
                if leaf is not None:
                    found.append(meeting.use.make(leaf, gradient, layout, False))
                    continue
                block = meeting.use.make(_like(place, gradient), gradient, layout, False).rows()
            rows[place] = rows[place] + block if place in rows else block
        return [*found, *self._taken_back(rows)]

    def _taken_back(self, rows: dict[Place, Float[Tensor, "m *shape"]]) -> list[Factors]:
        """The rows of the parameters, given those of what was made of them."""
        own = {id(p): p for p in self.wanted}
        found: list[Factors] = []
        made: dict[Place, Tensor] = {}
        for place, block in rows.items():
            parameter = own.get(id(getattr(place[0], "variable", None)))
            if parameter is None:
                made[place] = block.to(place[0]._input_metadata[place[1]].dtype)
            else:
                found.append(Rows(parameter, block))
        if not made:
            return found
        edges = [GradientEdge(*place) for place in made]
        pairs = zip(self.wanted, self._products(edges, [*made.values()]), strict=True)
        return [*found, *(Rows(p, block) for p, block in pairs if block is not None)]

    def _products(
        self, edges: Sequence[GradientEdge], blocks: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """The vector-Jacobian products with each row; together, where that is possible and pays."""
        m = len(blocks[0])
        batches = self._cache.batches(self._kind)
        if m >= _BATCHED and batches is not False:
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="There is a performance drop")
                    found = batched_gradients(edges, self.wanted, blocks, retain_graph=True)
            except (RuntimeError, NotImplementedError):
                # An operation that torch.vmap does not know, or a hook that looks at values.
                drop_dead_gradients()
                self._cache.remember_batching(self._kind, possible=False)
            else:
                if batches is None:
                    retained = drop_dead_gradients(recent=True)
                    self._cache.remember_batching(self._kind, possible=not retained)
                return found
        rows = [
            graph.gradients(edges, self.wanted, [block[row] for block in blocks], True)
            for row in range(m)
        ]
        return [stacked(column) for column in zip(*rows, strict=True)]


def _like(place: Place, gradient: Tensor) -> Tensor:
    """Something of the shape of the tensor at a place; it holds no numbers."""
    return torch.empty(shape_of(place), dtype=gradient.dtype, device="meta")


def _one_by_one(
    meeting: Meeting, gradient: Float[Tensor, "k *shape"], layout: Layout
) -> Float[Tensor, "m *shape"]:
    """The rows of what came in, by the operation's own derivative, an instance at a time."""
    node: Any = meeting.output.node
    positions = [i for i, child in enumerate(node.next_functions) if child == meeting.shared]
    given: list[Tensor | None] = [None] * len(node._input_metadata)
    alone = given[meeting.output.output_nr] = torch.zeros_like(gradient[0])
    shape = shape_of(meeting.shared)
    rows = gradient.new_zeros((layout.n * len(gradient), *shape))
    # Not by torch.autograd.grad, which would go on to other ways from what came in to here.
    derivative = node if callable(node) else node.apply
    for i in range(layout.n):
        for a, share in enumerate(gradient):
            layout.split(alone)[i].copy_(layout.split(share)[i])
            found = derivative(*given)
            found = found if isinstance(found, tuple) else (found,)
            for position in positions:
                if found[position] is not None:  # autograd would reduce it where it is broadcast
                    rows[i * len(gradient) + a] += dense(found[position]).sum_to_size(shape)
        layout.split(alone)[i].zero_()
    return rows


def shape_of(place: Place) -> tuple[int, ...]:
    """That of the tensor at a place of the graph."""
    return tuple(place[0]._input_metadata[place[1]].shape)


def slow_operations(meetings: Iterable[Meeting]) -> tuple[str, ...]:
    """The operations without a rule, whose own derivative is taken an instance at a time."""
    names = {m.output.node.name() for m in meetings if m.use is None}
    return tuple(sorted(name.rpartition("::")[2].partition("Backward")[0] for name in names))
