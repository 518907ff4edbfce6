"""Which columns of the Jacobian belong to which tensor."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from jdframework.linearization.blocks import columns_of, of_reals


class TensorColumns(NamedTuple):
    """The part of one tensor's columns that lies in a range of columns."""

    position: int
    """The tensor's, among the inputs."""
    within: slice
    """Where it lies among the tensor's entries."""
    at: slice
    """Where it lies in the range."""


class Layout:
    """The columns of a Jacobian: the entries of each input, one input after the other.

    A complex entry has two.

    :param inputs: With respect to what is differentiated; at least one.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.inputs = tuple(inputs)
        sizes = (columns_of(tensor) for tensor in inputs)
        self._starts = list(itertools.accumulate(sizes, initial=0))
        self.dtype = reduce(torch.promote_types, (t.dtype.to_real() for t in inputs))
        self.device = inputs[0].device

    @property
    def n(self) -> int:
        """The number of columns."""
        return self._starts[-1]

    @property
    def row_bytes(self) -> int:
        """What one row takes."""
        return self.n * self.dtype.itemsize

    def columns(self, position: int) -> slice:
        """Those of one input."""
        return slice(self._starts[position], self._starts[position + 1])

    def tensors_in(self, start: int, stop: int) -> Iterator[TensorColumns]:
        """The parts of tensors that the columns ``start`` to ``stop`` consist of."""
        for position in range(len(self.inputs)):
            mine = self.columns(position)
            first, last = max(start, mine.start), min(stop, mine.stop)
            if first < last:
                within = slice(first - mine.start, last - mine.start)
                yield TensorColumns(position, within, slice(first - start, last - start))

    def ranges(self, positions: Iterable[int]) -> list[tuple[int, int]]:
        """The columns of some inputs as ranges, neighbours joined.

        :param positions: Of the inputs, ascending.
        """
        found: list[tuple[int, int]] = []
        for position in positions:
            mine = self.columns(position)
            if found and found[-1][1] == mine.start:
                found[-1] = (found[-1][0], mine.stop)
            else:
                found.append((mine.start, mine.stop))
        return found

    def blocks(self, matrix: Tensor) -> list[Tensor]:
        """A matrix ``[m, n]`` as one ``[m, *input.shape]`` per input, in the input's dtype.

        :param matrix: With the columns of this layout.
        """
        return [
            of_reals(matrix[:, self.columns(i)], (len(matrix), *t.shape), t.dtype)
            for i, t in enumerate(self.inputs)
        ]
