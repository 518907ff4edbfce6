"""Where, on the way from a parameter to the losses, the gradient falls apart into instances.

A parameter may be transformed before it meets the data: an exponential, a table that is indexed, a
small network that makes a weight. Up to there the gradient is that of all instances together; from
the *meeting* on, each instance has its own share of it. Rows that are found at meetings are exact
wherever these cut the paths from a parameter to the losses, as long as every path is cut once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, Final

from torch.autograd.graph import GradientEdge, Node

from jdframework.autograd.graph import Place

from jd_plugin_autogram.dependencies import Dependencies
from jd_plugin_autogram.layout import Layout, agrees, candidates
from jd_plugin_autogram.meetings import Meeting, shape_of, slow_operations
from jd_plugin_autogram.objectives import Instances
from jd_plugin_autogram.operations import TensorUse, operation_for
from jd_plugin_autogram.probe_cache import Record, Separated
from jd_plugin_autogram.recording import Call

_DEPTHS: Final = (4, 16, 64)
"""How many operations away from the parameters meetings are looked for, round by round."""
_PATIENCE: Final = 3
"""How many times meetings are looked for on a kind of graph while gradients are zero."""
_LARGEST: Final = 2**27
"""How many numbers the rows of shared tensors may be, at most."""


class Separations:
    """Looks for the meetings of parameters that no layer's rule and no single operation serves.

    :param objectives: What is differentiated.
    :param dependencies: What they depend on.
    :param starts: By a parameter's identity, its place, or those of what was made of it.
    :param counted: By a parameter's identity, the nodes where other uses of it are counted; none
        may lie on the way back.
    """

    def __init__(
        self,
        objectives: Instances,
        dependencies: Dependencies,
        starts: Mapping[int, Sequence[Place]],
        counted: Mapping[int, Set[Node]],
    ) -> None:
        self._objectives, self._dependencies = objectives, dependencies
        self._starts, self._counted = starts, counted
        self._layouts: dict[Place, Layout | None] = {}
        self._uncertain: set[Place] = set()
        self._meets_zeros = False
        self._meetings: dict[tuple[Place, Place], Meeting] = {}
        self._found: dict[int, list[Meeting]] = {}

    def recall(self, known: Separated) -> bool:
        """Takes what an earlier search on the same kind of graph has found; False if it cannot."""
        numbered, starts = self._dependencies.numbered, self._starts.values()
        before = [[numbered[i] for i in own] for own in known.starts]
        if before != [[node for node, _ in own] for own in starts]:
            return False
        for (number, places), own in zip(self._starts.items(), known.meetings, strict=True):
            layouts = None if own is None else self._layouts_of(own)
            if layouts is None:
                if own is not None:
                    return False
                continue
            found = self._cut(places, _DEPTHS[-1], layouts.get)
            if found is None:
                return False
            self._found[number] = found
        return True

    def search(self) -> None:
        """Finds the meetings by pairs of backward passes, farther and farther from the starts."""
        crossed: dict[int, set[Place]] = {number: set() for number in self._starts}

        def layout_for(number: int) -> Callable[[Place], Layout | None]:
            return lambda place: None if place in crossed[number] else self._layouts.get(place)

        self._found.clear()
        left = dict(self._starts)
        for depth in _DEPTHS:
            pending = list(left)
            while pending:
                self._probe([x for i in pending for x in self._above(i, depth, layout_for(i))])
                again = []
                for number in pending:
                    own = self._cut(left[number], depth, layout_for(number))
                    new = _counted_twice(own or ())
                    if new:
                        crossed[number] |= new
                        again.append(number)
                    elif own is not None:
                        self._found[number] = own
                pending = again
            left = {i: places for i, places in left.items() if i not in self._found}
        for number, nodes in self._counted.items():
            if not _below(m.shared for m in self._found.get(number, ())).isdisjoint(nodes):
                del self._found[number]

    def allowed(self) -> dict[tuple[Meeting, ...], list[int]]:
        """The parameters that have the same meetings, by these, where their rows can be held.

        What is not there has paths to the losses without a meeting.
        """
        found: dict[tuple[Meeting, ...], list[int]] = {}
        for number, own in self._found.items():
            shared = {m.shared for m in own}
            if self._objectives.m * sum(math.prod(shape_of(place)) for place in shared) <= _LARGEST:
                found.setdefault(tuple(own), []).append(number)
        return found

    def to_remember(self, searches: int) -> Separated | None:
        """What :meth:`recall` takes on another graph of the same kind; None if that is unsure.

        Where a gradient lies in more than one way by instances, another batch may show something
        else; where it is zero, the next steps may, as a gate that was closed opens.

        :param searches: How often meetings were looked for on this kind of graph.
        """
        every = [m for own in self._found.values() for m in own]
        if self._meets_zeros and searches < _PATIENCE:
            return None
        if any((m.output.node, m.output.output_nr) in self._uncertain for m in every):
            return None
        numbers = {node: number for number, node in enumerate(self._dependencies.numbered)}
        meetings = tuple(
            None
            if (own := self._found.get(i)) is None
            else tuple(self._record(m, numbers) for m in own)
            for i in self._starts
        )
        starts = tuple(tuple(numbers[node] for node, _ in own) for own in self._starts.values())
        below = frozenset(
            numbers[node] for node in _below(m.shared for m in every) if node in numbers
        )
        return Separated(starts, meetings, slow_operations(every), below)

    def _record(self, meeting: Meeting, numbers: Mapping[Node, int]) -> Record:
        node, output = meeting.output.node, meeting.output.output_nr
        dim, minor = meeting.layout.dim, meeting.layout.minor
        several = shape_of((node, output))[dim] > self._objectives.n
        return numbers[node], output, dim, minor if several else None

    def _layouts_of(self, records: Iterable[Record]) -> dict[Place, Layout] | None:
        """Where instances lie at the places of records; None if this batch may differ."""
        n = self._objectives.n
        found = {}
        for number, output, dim, minor in records:
            place = self._dependencies.numbered[number], output
            size = shape_of(place)[dim]
            if size % n or (minor is None and size > n):
                return None
            found[place] = Layout(n, dim, bool(minor) and size > n)
        return found

    def _above(
        self, number: int, depth: int, layout: Callable[[Place], Layout | None]
    ) -> list[Place]:
        """The outputs of what uses a parameter, so many operations away at most, up to meetings."""
        found: dict[Place, None] = {}
        level = list(dict.fromkeys(self._starts[number]))
        for _ in range(depth):
            level = [
                output
                for place in level
                if layout(place) is None
                for consumer in self._dependencies.consumers.get(place, ())
                for output in self._dependencies.outputs_of(consumer)
                if output not in found
            ]
            level = list(dict.fromkeys(level))
            found |= dict.fromkeys(level)
        return list(found)

    def _probe(self, places: Sequence[Place]) -> None:
        """Finds out at which places the gradient falls apart, by two backward passes."""
        new = list(dict.fromkeys(place for place in places if place not in self._layouts))
        if not new:
            return
        n = self._objectives.n
        plain, scaled, factors = self._objectives.probe([GradientEdge(*place) for place in new])
        for place, gradient, other in zip(new, plain, scaled, strict=True):
            self._layouts[place] = None
            if gradient is None or other is None:
                continue
            shape = shape_of(place)
            options = [
                layout
                for layout in candidates(shape, n, range(len(shape)))
                if agrees(layout, gradient, other, factors)
            ]
            if options and not bool(gradient.any()):
                self._meets_zeros = True  # and what is multiplied by zero farther on tells nothing
            elif options:
                self._layouts[place] = options[0]
                if len(options) > 1:
                    self._uncertain.add(place)

    def _cut(
        self, starts: Sequence[Place], depth: int, layout: Callable[[Place], Layout | None]
    ) -> list[Meeting] | None:
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
                        lies = layout(output)
                        if lies is None and output not in seen:
                            seen[output] = None
                            following.append(output)
                        elif lies is not None and not _is_local(consumer):
                            return None
                        elif lies is not None:
                            found[self._meeting(output, lies, place)] = None
            level = following
            if not level:
                return list(found)
        return None

    def _meeting(self, output: Place, layout: Layout, shared: Place) -> Meeting:
        """The same one for the same places."""
        known = self._meetings.get((output, shared))
        if known is None:
            use = _use(output, shared)
            use = use if use is not None and layout.dim in use.dims else None
            known = Meeting(GradientEdge(*output), layout, shared, use)
            self._meetings[output, shared] = known
        return known


def _counted_twice(meetings: Sequence[Meeting]) -> set[Place]:
    """The meetings' outputs that lie on the way back from other meetings: no cuts of all paths.

    What goes through one of them would be counted twice.
    """
    below = _below(m.shared for m in meetings)
    places = ((m.output.node, m.output.output_nr) for m in meetings)
    return {place for place in places if place[0] in below}


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
    return operation.use(node, positions[0], shape_of(place))
