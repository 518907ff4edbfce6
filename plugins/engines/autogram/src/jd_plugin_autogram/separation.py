"""Where, on the way from a parameter to the losses, the gradient falls apart into instances.

A parameter may be transformed before it meets the data: an exponential, a table that is indexed, a
small network that makes a weight. Up to there the gradient is that of all instances together; from
the *meeting* on, each instance has its own share of it. The shares of a meeting's output give a row
per objective of what came in, and the transformation's own derivative takes these rows to the
parameter. That is exact wherever the paths are cut, as long as every path is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from jdframework.autograd.graph import Place, gradients, stacked
from jdframework.autograd.leaf_hooks import without_leaf_hooks
from jdframework.autograd.sparse import dense

from jd_plugin_autogram.contributions import Contribution
from jd_plugin_autogram.dependencies import Dependencies
from jd_plugin_autogram.factors import Factors, Rows
from jd_plugin_autogram.layout import Layout, agrees, candidates
from jd_plugin_autogram.objectives import Instances
from jd_plugin_autogram.operations import TensorUse, operation_for
from jd_plugin_autogram.probe_cache import Remembered
from jd_plugin_autogram.recording import Call

_DEPTHS: Final = (4, 16, 64)
"""How many operations away from the parameters meetings are looked for, round by round."""
_BATCHED: Final = 8
"""From how many rows on they go through a transformation together."""
_LARGEST: Final = 2**27
"""How many numbers the rows of shared tensors may be, at most."""


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
    """

    def __init__(self, meetings: Sequence[Meeting], wanted: Sequence[nn.Parameter]) -> None:
        super().__init__([meeting.output for meeting in meetings], wanted)
        self.meetings = meetings
        self.layouts = [meeting.layout for meeting in meetings]

    @property
    def of_shared(self) -> bool:
        """Whether all that comes in is smaller than what goes out, as what instances share is."""
        return all(
            math.prod(_shape(m.shared)) < math.prod(shape)
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
        """Any."""
        return range(len(shape))

    def factors(
        self, gradients: Sequence[Tensor | None], layouts: Sequence[Layout]
    ) -> list[Factors]:
        """The rows of what came in, taken to the parameters."""
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
        return [*found, *_taken_back(rows, self.wanted)]


def _like(place: Place, gradient: Tensor) -> Tensor:
    """Something of the shape of the tensor at a place; it holds no numbers."""
    return torch.empty(_shape(place), dtype=gradient.dtype, device="meta")


def _one_by_one(
    meeting: Meeting, gradient: Float[Tensor, "k *shape"], layout: Layout
) -> Float[Tensor, "m *shape"]:
    """The rows of what came in, by the operation's own derivative, an instance at a time."""
    node: Any = meeting.output.node
    positions = [i for i, child in enumerate(node.next_functions) if child == meeting.shared]
    given: list[Tensor | None] = [None] * len(node._input_metadata)
    alone = given[meeting.output.output_nr] = torch.zeros_like(gradient[0])
    shape = _shape(meeting.shared)
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


def _shape(place: Place) -> tuple[int, ...]:
    return tuple(place[0]._input_metadata[place[1]].shape)


def _taken_back(
    rows: dict[Place, Float[Tensor, "m *shape"]], wanted: Sequence[nn.Parameter]
) -> list[Factors]:
    """The rows of parameters, given those of what was made of them."""
    direct = [
        (p, rows.pop(place))
        for p in wanted
        for place in [*rows]
        if getattr(place[0], "variable", None) is p
    ]
    found: list[Factors] = [Rows(p, block) for p, block in direct]
    if not rows:
        return found
    edges = [GradientEdge(*place) for place in rows]
    blocks = [block.to(place[0]._input_metadata[place[1]].dtype) for place, block in rows.items()]
    reached = _vector_jacobian_products(edges, blocks, wanted)
    pairs = zip(wanted, reached, strict=True)
    return [*found, *(Rows(p, block) for p, block in pairs if block is not None)]


def _vector_jacobian_products(
    edges: Sequence[GradientEdge], blocks: Sequence[Tensor], wanted: Sequence[nn.Parameter]
) -> list[Tensor | None]:
    """``[m, *shape]`` per parameter; together, where that is possible and pays."""
    m = len(blocks[0])
    if m >= _BATCHED:
        try:
            with without_leaf_hooks(wanted):
                return list(
                    torch.autograd.grad(
                        edges,
                        wanted,
                        blocks,
                        retain_graph=True,
                        allow_unused=True,
                        is_grads_batched=True,
                    )
                )
        except (RuntimeError, NotImplementedError):
            pass  # an operation that torch.vmap does not know
    found = [gradients(edges, wanted, [block[row] for block in blocks], True) for row in range(m)]
    return [stacked(column) for column in zip(*found, strict=True)]


_Cuts: TypeAlias = dict[int, list[Meeting] | None]
"""By a parameter's identity, the meetings that cut its paths; None if not all are cut."""


class Separations:
    """Looks for the meetings of parameters that no layer's rule and no single operation serves.

    :param objectives: What is differentiated.
    :param dependencies: What they depend on.
    :param taken: By a parameter's identity, the nodes where other uses of it are counted: they may
        not lie on the way back.
    """

    def __init__(
        self, objectives: Instances, dependencies: Dependencies, taken: Mapping[int, Set[Node]]
    ) -> None:
        self._objectives, self._dependencies, self._taken = objectives, dependencies, taken
        self._layouts: dict[Place, Layout | None] = {}
        self._known: dict[tuple[Place, Place], Meeting] = {}
        self.are_certain = True
        """Whether they lie alike in the next batch, as far as this batch's gradients tell."""

    def find(
        self, starts: Mapping[int, Sequence[Place]], known: Remembered | None
    ) -> dict[int, list[Meeting]]:
        """The meetings that cut all paths from the places of each parameter to the losses.

        :param starts: By a parameter's identity, its place, or those of what was made of it.
        :param known: What an earlier search on the same kind of graph has found.
        :return: Without those parameters that have paths without a meeting.
        """
        if known is not None:
            self._recall(known)
            found = self._cuts(starts, _DEPTHS[-1])
            if not self._crossed(found) and all(own is not None for own in found.values()):
                return self._allowed(found)
            self._layouts.clear()
            self._known.clear()
        found = {}
        for depth in _DEPTHS:
            while True:
                self._probe(self._above([p for own in starts.values() for p in own], depth))
                found = self._cuts(starts, depth)
                crossed = self._crossed(found)
                if not crossed:
                    break
                self._layouts.update(dict.fromkeys(crossed))
            if all(own is not None for own in found.values()):
                break
        return self._allowed(found)

    def to_remember(self, meetings: Iterable[Meeting]) -> Remembered:
        """What :meth:`find` takes as known on another graph of the same kind."""
        n = self._objectives.n
        numbers = {node: number for number, node in enumerate(self._dependencies.numbered)}
        found = {}
        for m in meetings:
            size = m.output.node._input_metadata[m.output.output_nr].shape[m.layout.dim]
            place = numbers[m.output.node], m.output.output_nr
            found[place] = (*place, m.layout.dim, m.layout.minor if size > n else None)
        return tuple(found.values())

    def below(self, meetings: Iterable[Meeting]) -> frozenset[int]:
        """The numbers of the nodes that take parameters to meetings."""
        nodes = _below(m.shared for m in meetings)
        pairs = enumerate(self._dependencies.numbered)
        return frozenset(number for number, node in pairs if node in nodes)

    def _above(self, starts: Sequence[Place], depth: int) -> list[Place]:
        """The outputs of everything that uses some places, so many operations away at most."""
        found: dict[Place, None] = {}
        level = list(dict.fromkeys(starts))
        for _ in range(depth):
            level = list(
                dict.fromkeys(
                    output
                    for place in level
                    if self._layouts.get(place) is None
                    for consumer in self._dependencies.consumers.get(place, ())
                    for output in self._dependencies.outputs_of(consumer)
                    if output not in found
                )
            )
            found |= dict.fromkeys(level)
        return [place for place in found if place not in self._layouts]

    def _probe(self, places: Sequence[Place]) -> None:
        """Finds out at which places the gradient falls apart, by two backward passes."""
        if not places:
            return
        n = self._objectives.n
        edges = [GradientEdge(*place) for place in places]
        plain, scaled, factors = self._objectives.probe(edges)
        for place, gradient, other in zip(places, plain, scaled, strict=True):
            if gradient is None or other is None:
                self._layouts[place] = None
                continue
            shape = _shape(place)
            options = [
                layout
                for layout in candidates(shape, n, range(len(shape)))
                if agrees(layout, gradient, other, factors)
            ]
            self.are_certain &= len(options) < 2 and bool(gradient.any())
            self._layouts[place] = options[0] if options else None

    def _cuts(self, starts: Mapping[int, Sequence[Place]], depth: int) -> _Cuts:
        return {number: self._cut(places, depth) for number, places in starts.items()}

    def _cut(self, starts: Sequence[Place], depth: int) -> list[Meeting] | None:
        """The meetings; None if there are paths without, so many operations from the start."""
        found: dict[Meeting, None] = {}
        seen = dict.fromkeys(starts)
        level = list(seen)
        for _ in range(depth):
            if any(place in self._dependencies.roots for place in level):
                return None
            following: list[Place] = []
            for place in level:
                for consumer in self._dependencies.consumers.get(place, ()):
                    for output in self._dependencies.outputs_of(consumer):
                        layout = self._layouts.get(output)
                        if layout is None and output not in seen:
                            seen[output] = None
                            following.append(output)
                        elif layout is not None and not _is_local(consumer):
                            return None
                        elif layout is not None:
                            found[self._meeting(output, layout, place)] = None
            level = following
            if not level:
                return list(found)
        return None

    def _crossed(self, found: _Cuts) -> list[Place]:
        """The meetings' outputs that lie on the way back from other meetings: no cuts of all paths.

        What goes through one of them would be counted twice.
        """
        every = [m for own in found.values() for m in own or ()]
        below = _below(m.shared for m in every)
        places = ((m.output.node, m.output.output_nr) for m in every)
        return [place for place in places if place[0] in below]

    def _meeting(self, output: Place, layout: Layout, shared: Place) -> Meeting:
        """The same one for the same places."""
        known = self._known.get((output, shared))
        if known is None:
            use = _use(output, shared)
            use = use if use is not None and layout.dim in use.dims else None
            known = Meeting(GradientEdge(*output), layout, shared, use)
            self._known[output, shared] = known
        return known

    def _allowed(self, found: _Cuts) -> dict[int, list[Meeting]]:
        """Those that count nothing that is counted elsewhere, and whose rows can be held."""
        below = _below(m.shared for own in found.values() for m in own or ())
        allowed = {}
        for number, own in found.items():
            if own is None or not below.isdisjoint(self._taken.get(number, ())):
                continue
            shared = {m.shared for m in own}
            if self._objectives.m * sum(math.prod(_shape(place)) for place in shared) <= _LARGEST:
                allowed[number] = own
        return allowed

    def _recall(self, known: Remembered) -> None:
        n = self._objectives.n
        numbered = self._dependencies.numbered
        for number, output, dim, minor in known:
            place = numbered[number], output
            shape = _shape(place)
            fits = dim < len(shape) and shape[dim] % n == 0
            if fits and (shape[dim] == n or minor is not None):
                self._layouts[place] = Layout(n, dim, bool(minor) and shape[dim] > n)


def _below(places: Iterable[Place]) -> set[Node]:
    """Every node that tensors were made by."""
    pending = [node for node, _ in places]
    found: set[Node] = set()
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += [child for child, _ in node.next_functions if child is not None]
    return found


def _is_local(consumer: Any) -> bool:
    """Whether it is one operation, whose own derivative can be asked for."""
    return not isinstance(consumer, Call) and consumer.name() != "CompiledFunctionBackward"


def _use(output: Place, place: Place) -> TensorUse | None:
    """The rule of an operation for its input that comes from a place, if it comes in once."""
    node: Any = output[0]
    operation = operation_for(node.name())
    positions = [i for i, child in enumerate(node.next_functions) if child == place]
    if operation is None or len(positions) != 1 or output != (node, 0):
        return None
    return operation.use(node, positions[0], _shape(place))
