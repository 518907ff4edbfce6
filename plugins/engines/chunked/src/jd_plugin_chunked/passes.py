"""Takes rows of the Jacobian through the graph, as many at once as asked for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from jdframework.autograd.graph import gradients, stacked
from jdframework.autograd.retained_gradients import (
    RETAINED,
    drop_dead_gradients,
    leaving_grad_alone,
)
from jdframework.autograd.vmap import batched_gradients, tell_fallback
from jdframework.bases.jacobian_engine import Starts

from jd_plugin_chunked.out_of_memory import is_out_of_memory


class Passes:
    """Takes rows through a graph, several at once (``torch.vmap``) or one by one.

    :param starts: What is differentiated, and where each row starts.
    :param batchable: By its operations, whether vmap can run on a graph; is added to.
    """

    def __init__(self, starts: Starts, batchable: dict[frozenset[str], bool]) -> None:
        self._of = starts
        self._outputs, self._starts = starts.outputs, starts.cotangents
        self._operations, self._batchable = starts.graph.operations, batchable
        self._sizes = [output.numel() for output in starts.outputs]
        self.freed = False
        """Whether a pass has freed the graph, even if it failed on the way."""
        self.m = starts.m

    @property
    def batched(self) -> bool:
        """Whether several rows can go through the graph at once, and nothing is wasted on it."""
        together = self._starts is not None or len(self._outputs) == 1
        return together and self.batchable

    @property
    def batchable(self) -> bool:
        """Whether vmap has not failed on such a graph."""
        return self._batchable.get(self._operations, True)

    def take(
        self, first: int, count: int, inputs: Sequence[Tensor], retain_graph: bool
    ) -> list[Tensor | None]:
        """Some rows: ``[count, *input.shape]`` per input, None where all of them are zero.

        :param first: The first row.
        :param count: How many; more than one only where they can be ``batched``.
        :param inputs: With respect to what.
        :param retain_graph: Whether the graph can be used again; after several rows it can.
        """
        with leaving_grad_alone(inputs):
            if count > 1:
                return self._several(first, count, inputs)
            self.freed = not retain_graph
            found = self._one(first, inputs, retain_graph)
            return [None if gradient is None else gradient.unsqueeze(0) for gradient in found]

    def weighted(
        self, weights: Tensor, inputs: Sequence[Tensor], retain_graph: bool
    ) -> list[Tensor | None]:
        """The weighted sum of all rows, by one backward pass.

        :param weights: One per row.
        :param inputs: With respect to what.
        :param retain_graph: Whether the graph can be used again.
        """
        self.freed = not retain_graph
        with leaving_grad_alone(inputs):
            return gradients(self._outputs, inputs, self._of.weighted(weights), retain_graph)

    def _one(self, row: int, inputs: Sequence[Tensor], retain_graph: bool) -> list[Tensor | None]:
        if self._starts is not None:
            start = [start[row] for start in self._starts]
            return gradients(self._outputs, inputs, start, retain_graph)
        output = 0
        while row >= self._sizes[output]:
            row -= self._sizes[output]
            output += 1
        (unit,) = _units([self._outputs[output]], row, 1)
        return gradients([self._outputs[output]], inputs, [unit[0]], retain_graph)

    def _several(self, first: int, count: int, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        if self._starts is not None:
            starts = [start[first : first + count] for start in self._starts]
        else:
            starts = _units(self._outputs, first, count)
        try:
            found: list[Tensor | None] = [
                *batched_gradients(self._outputs, inputs, starts, retain_graph=True)
            ]
        except (RuntimeError, NotImplementedError) as error:
            retained = drop_dead_gradients()
            if is_out_of_memory(error):
                raise
            why: str | Exception = RETAINED if retained else error
        else:
            if self._operations not in self._batchable:
                self._batchable[self._operations] = True
                if drop_dead_gradients(recent=True):
                    self._fall_back(RETAINED)
            return found
        rows = [self._one(row, inputs, retain_graph=True) for row in range(first, first + count)]
        self._fall_back(why)
        return [stacked(column) for column in zip(*rows, strict=True)]

    def _fall_back(self, why: str | Exception) -> None:
        self._batchable[self._operations] = False
        tell_fallback("chunked", why)


def _units(outputs: Sequence[Tensor], first: int, count: int) -> list[Tensor]:
    """What the rows of single entries of the only output start from."""
    (output,) = outputs
    units = output.new_zeros((count, output.numel()))
    units[range(count), range(first, first + count)] = 1.0
    return [units.reshape(count, *output.shape)]
