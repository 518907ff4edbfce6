"""A cache of what was found out about each kind of graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Where: TypeAlias = "tuple[int, bool | None] | None"
"""The dimension along which instances lie, and whether the instance is the faster index of it, if
that is known; None where they lie nowhere."""
Record: TypeAlias = "tuple[int, int, int, bool | None]"
"""Of a meeting: the numbers of the node and of its output, the dimension along which the instances
lie in it, and whether they are the faster index of it, if that is known."""
Remembered: TypeAlias = "tuple[tuple[Record, ...] | None, ...]"
"""For each parameter that was looked at, its meetings; None if it has a path without."""
_KINDS: Final = 64
"""How many kinds of graphs are remembered."""


@dataclass(frozen=True)
class Separated:
    """Where, on a kind of graph, what instances share meets what they do not."""

    starts: tuple[tuple[int, ...], ...]
    """For each parameter that was looked at, the numbers of the nodes where the search began."""
    meetings: Remembered
    """Where each parameter meets the instances."""
    slow: tuple[str, ...]
    """The operations there that have no rule."""
    below: frozenset[int]
    """The numbers of the nodes that make what is shared."""


class ProbeCache:
    """A cache of layouts, of checks that held, and of memory sizes, by kind of graph."""

    def __init__(self) -> None:
        self._places: dict[Hashable, list[Where]] = {}
        self._trusted: dict[Hashable, int] = {}
        self._sizes: dict[Hashable, int] = {}
        self._separated: dict[Hashable, Separated] = {}
        self._searches: dict[Hashable, int] = {}
        self._batching: dict[Hashable, bool] = {}

    def __reduce__(self) -> tuple[type[ProbeCache], tuple[()]]:
        """A copy has seen nothing."""
        return type(self), ()

    def places(self, kind: Hashable) -> list[Where] | None:
        """Where the instances lie in each output; None if that is not known."""
        return self._places.get(kind)

    def remember(self, kind: Hashable, places: list[Where]) -> None:
        """For :meth:`places`."""
        self._places[kind] = places
        _forget_oldest(self._places)

    def separated(self, names: Hashable) -> Separated | None:
        """Where shared tensors meet instances on a graph with nodes of these names."""
        return self._separated.get(names)

    def remember_separated(self, names: Hashable, found: Separated) -> None:
        """For :meth:`separated`."""
        self._separated[names] = found
        _forget_oldest(self._separated)

    def searched(self, names: Hashable) -> int:
        """Counts the searches on graphs with nodes of these names, this one included."""
        self._searches[names] = self._searches.get(names, 0) + 1
        _forget_oldest(self._searches)
        return self._searches[names]

    def batches(self, kind: Hashable) -> bool | None:
        """Whether rows go through transformations of parameters together; None if not yet tried."""
        return self._batching.get(kind)

    def remember_batching(self, kind: Hashable, *, possible: bool) -> None:
        """For :meth:`batches`."""
        self._batching[kind] = possible
        _forget_oldest(self._batching)

    def is_trusted(self, kind: Hashable) -> bool:
        """Whether this step needs no check of its Gramian.

        Once the first has held, the tenth, hundredth, thousandth … step are checked all the same:
        what a loss depends on may change while the graph looks alike, as a factor that was zero.
        """
        steps = self._trusted.get(kind)
        if steps is None:
            return False
        self._trusted[kind] = steps + 1
        return str(steps + 1).strip("0") != "1"

    def verified(self, kind: Hashable) -> None:
        """The check of this step has held."""
        self._trusted.setdefault(kind, 1)
        _forget_oldest(self._trusted)

    def size(self, kind: Hashable, measure: Callable[[], int]) -> int:
        """How many bytes a step may keep, measured once."""
        if kind not in self._sizes:
            self._sizes[kind] = measure()
            _forget_oldest(self._sizes)
        return self._sizes[kind]


def _forget_oldest(known: dict[Hashable, Any]) -> None:
    if len(known) > _KINDS:
        del known[next(iter(known))]
