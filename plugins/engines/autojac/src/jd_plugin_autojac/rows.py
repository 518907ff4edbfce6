"""The rows of a Jacobian: where each starts, and two ways to take them through the graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jdframework.autograd.graph import gradients
from jdframework.autograd.vmap import batched_gradients
from jdframework.bases import JacobianEngine


@dataclass(frozen=True)
class Rows:
    """``m`` vector-Jacobian products of ``outputs`` with respect to ``inputs``.

    Without ``starts`` there is one row per entry of each output, in order.
    """

    outputs: Sequence[Tensor]
    inputs: Sequence[Tensor]
    starts: Sequence[Tensor] | None
    """What each row starts from, ``[m, *output.shape]`` per output."""

    @property
    def m(self) -> int:
        """How many rows there are."""
        if self.starts is not None:
            return len(self.starts[0])
        return sum(output.numel() for output in self.outputs)

    @property
    def is_batch(self) -> bool:
        """Whether all rows start from all outputs, so that one batched pass wastes nothing."""
        return self.starts is not None or len(self.outputs) == 1

    def one_by_one(self, retain_graph: bool) -> list[Tensor]:
        """The blocks ``[m, *input.shape]``, by ``m`` ordinary backward passes."""
        blocks = [t.new_empty((self.m, *t.shape)) for t in self.inputs]
        for row, (outputs, start) in enumerate(self._single_starts()):
            keep = retain_graph or row < self.m - 1
            for block, found in zip(
                blocks, gradients(outputs, self.inputs, start, retain_graph=keep), strict=True
            ):
                if found is None:
                    block[row].zero_()
                else:
                    block[row].copy_(found)
        return blocks

    def batched(self, chunk_size: int, retain_graph: bool) -> list[Tensor]:
        """The same blocks, ``chunk_size`` rows a pass, by ``torch.vmap``."""
        starts = self.starts or JacobianEngine.unit_starts(self.outputs)
        chunks = list(zip(*(torch.split(start, chunk_size) for start in starts), strict=True))
        parts = [
            batched_gradients(self.outputs, self.inputs, chunk, retain_graph or i < len(chunks) - 1)
            for i, chunk in enumerate(chunks)
        ]
        if len(parts) == 1:
            return list(parts[0])
        return [torch.cat(blocks) for blocks in zip(*parts, strict=True)]

    def _single_starts(self) -> Iterator[tuple[Sequence[Tensor], list[Tensor]]]:
        if self.starts is not None:
            for row in range(self.m):
                yield self.outputs, [start[row] for start in self.starts]
            return
        for output in self.outputs:
            for entry in range(output.numel()):
                start = torch.zeros_like(output, memory_format=torch.contiguous_format)
                start.view(-1)[entry] = 1.0
                yield [output], [start]
