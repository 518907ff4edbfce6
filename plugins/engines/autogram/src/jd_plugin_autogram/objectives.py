"""The objectives, and the backward passes that tell how they depend on what layers put out.

Instances: each objective depends on its own instance, so one backward pass of the summed losses
gives every objective's gradient of every layer output, side by side. Tasks: each objective depends
on the whole batch and takes a pass of its own, which stops at the layers' outputs. To the rules,
tasks are many losses of one instance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import GradientEdge

from jdframework.autograd.graph import cast, gradients, stacked, weighted_starts

_Pass = tuple[Sequence[Tensor | GradientEdge], Sequence[Tensor] | None]


class Objectives(ABC):
    """``n`` instances with ``k`` losses each."""

    outputs: list[Tensor]
    """What the graph is walked from."""
    n: int
    """How many independent instances there are."""
    k: int
    """How many passes there are."""
    starts: Sequence[Tensor] | None = None
    """What each of ``m`` rows starts from, ``[m, *output.shape]`` per output, if it is given."""

    @property
    def m(self) -> int:
        """How many objectives there are."""
        return self.n * self.k

    @abstractmethod
    def passes(self) -> Iterator[_Pass]:
        """What each of ``k`` passes starts from: loss a of every instance."""

    @abstractmethod
    def singles(self) -> Iterator[_Pass]:
        """What each objective's own pass starts from, in the order ``i·k + a``."""

    @abstractmethod
    def weighted(self, weights: Float[Tensor, " m"]) -> _Pass:
        """What the weighted sum of all objectives starts from.

        :param weights: In the order ``i·k + a``.
        """

    def permuted(self, gramian: Float[Tensor, "m m"]) -> Float[Tensor, "m m"]:
        """The Gramian in the order of the losses as they were given."""
        return gramian

    def permuted_rows(self, rows: Float[Tensor, "m *shape"]) -> Float[Tensor, "m *shape"]:
        """Rows in the order of the losses as they were given."""
        return rows

    def in_order(self, weights: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Weights in the order ``i·k + a``."""
        return weights

    def of_outputs(
        self,
        edges: Sequence[GradientEdge],
        retain_graph: bool,
        parameters: Sequence[Tensor] = (),
    ) -> tuple[list[Float[Tensor, "k *shape"] | None], list[Float[Tensor, "m *shape"]]]:
        """The gradient of each layer output, None where no loss depends on it.

        :param edges: The outputs.
        :param retain_graph: Whether the graph can be used again.
        :param parameters: Those whose rows are wanted, too, if there is but one instance: they are
            found on the same passes.
        """
        columns = self._columns(list(self.passes()), [*edges, *parameters], retain_graph)
        found = [stacked(column) for column in columns]
        return found[: len(edges)], self._rows(parameters, found[len(edges) :])

    def of_parameters(
        self, parameters: Sequence[Tensor], retain_graph: bool
    ) -> list[Float[Tensor, "m *shape"]]:
        """The rows of each parameter, by one pass for each objective."""
        columns = self._columns(list(self.singles()), parameters, retain_graph)
        return self._rows(parameters, [stacked(column) for column in columns])

    def _rows(self, parameters: Sequence[Tensor], found: Sequence[Tensor | None]) -> list[Tensor]:
        return [
            p.new_zeros((self.m, *p.shape)) if block is None else block
            for p, block in zip(parameters, found, strict=True)
        ]

    def _columns(
        self,
        passes: Sequence[_Pass],
        inputs: Sequence[GradientEdge | Tensor],
        retain_graph: bool,
    ) -> list[tuple[Tensor | None, ...]]:
        if not inputs:
            return []
        last = len(passes) - 1
        rows = [
            differentiated((outputs, starts), inputs, retain_graph or i < last)
            for i, (outputs, starts) in enumerate(passes)
        ]
        return list(zip(*rows, strict=True))


class Instances(Objectives):
    """Losses of independent instances; with several per instance, one pass for each.

    :param losses: Of any shape; the instances lie along one dimension of it.
    :param dim: Which; a negative one counts from the last.
    """

    def __init__(self, losses: Tensor, dim: int) -> None:
        self.outputs = [losses]
        self._dim = _existing(dim, losses.ndim)
        self._losses = losses
        self.n = losses.shape[self._dim]
        self.k = losses.numel() // self.n

    def passes(self) -> Iterator[_Pass]:
        """One for each loss that an instance has."""
        if self.k == 1:
            yield [self._losses], [torch.ones_like(self._losses)]
            return
        for column in self._indices.unbind(1):
            yield [self._losses], [self._start(column, 1.0)]

    def singles(self) -> Iterator[_Pass]:
        """One backward pass for each loss."""
        for index in self._indices.flatten():
            yield [self._losses], [self._start(index, 1.0)]

    def weighted(self, weights: Float[Tensor, " m"]) -> _Pass:
        """Starts from all losses, each times its weight."""
        values = cast(weights, self._losses)
        if self._dim == 0:
            return [self._losses], [values.reshape(self._losses.shape)]
        return [self._losses], [self._start(self._indices.flatten(), values)]

    def permuted(self, gramian: Float[Tensor, "m m"]) -> Float[Tensor, "m m"]:
        """See :meth:`Objectives.permuted`."""
        if self._dim == 0:
            return gramian
        back = self._indices.flatten().argsort()
        return gramian[back][:, back]

    def permuted_rows(self, rows: Float[Tensor, "m *shape"]) -> Float[Tensor, "m *shape"]:
        """See :meth:`Objectives.permuted_rows`."""
        return rows if self._dim == 0 else rows[self._indices.flatten().argsort()]

    def in_order(self, weights: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """See :meth:`Objectives.in_order`."""
        return weights if self._dim == 0 else weights[self._indices.flatten()]

    def probe(
        self, edges: Sequence[GradientEdge]
    ) -> tuple[list[Tensor | None], list[Tensor | None], Float[Tensor, " n"]]:
        """The gradients of the sum of all losses, and with each instance's losses scaled.

        :param edges: Layer outputs.
        :return: The plain gradients, the scaled ones, and the factors, no two of them alike.
        """
        generator = torch.Generator("cpu").manual_seed(0)
        factors = (
            0.5 + torch.rand(self.n, generator=generator, dtype=torch.float32, device="cpu")
        ).to(self._losses)
        plain = differentiated(([self._losses], [torch.ones_like(self._losses)]), edges, True)
        start = self._start(self._indices, factors.unsqueeze(1).expand(self.n, self.k))
        return plain, differentiated(([self._losses], [start]), edges, True), factors

    @cached_property
    def _indices(self) -> Tensor:
        """``[n, k]``: where each loss is in the flattened tensor of losses."""
        numbers = torch.arange(self._losses.numel(), device=self._losses.device)
        moved = numbers.reshape(self._losses.shape).movedim(self._dim, 0)
        return moved.reshape(self.n, self.k)

    def _start(self, indices: Tensor, values: Tensor | float) -> Tensor:
        flat = self._losses.new_zeros(self._losses.numel())
        flat[indices] = values
        return flat.reshape(self._losses.shape)


def _existing(dim: int, ndim: int) -> int:
    """The dimension, counted from the first; the nearest that there is."""
    return min(max(dim + ndim if dim < 0 else dim, 0), ndim - 1)


class Tasks(Objectives):
    """Objectives that each depend on the whole batch.

    :param outputs: What is differentiated.
    :param starts: What each of ``m`` rows starts from, ``[m, *output.shape]`` per output; None
        means one row per entry of the outputs.
    """

    def __init__(self, outputs: Sequence[Tensor], starts: Sequence[Tensor] | None = None) -> None:
        self.outputs = list(outputs)
        self.starts = starts
        self.n = 1
        self.k = sum(o.numel() for o in outputs) if starts is None else len(starts[0])

    def passes(self) -> Iterator[_Pass]:
        """One for each objective."""
        if self.starts is not None:
            for row in range(self.k):
                yield self.outputs, [start[row] for start in self.starts]
            return
        for output in self.outputs:
            for entry in range(output.numel()):
                start = output.new_zeros(output.numel())
                start[entry] = 1.0
                yield [output], [start.reshape(output.shape)]

    def singles(self) -> Iterator[_Pass]:
        """The same passes: each objective has one of its own."""
        return self.passes()

    def weighted(self, weights: Float[Tensor, " m"]) -> _Pass:
        """Starts from all objectives, each times its weight."""
        if self.starts is not None:
            return self.outputs, [
                torch.tensordot(cast(weights, start), start, dims=1) for start in self.starts
            ]
        return self.outputs, weighted_starts(weights, self.outputs)


def differentiated(
    start: _Pass, inputs: Sequence[GradientEdge | Tensor], retain_graph: bool
) -> list[Tensor | None]:
    """One backward pass.

    :param start: The outputs, and what each starts from.
    :param inputs: With respect to what.
    :param retain_graph: Whether the graph can be used again.
    :raises UnsupportedModelError: if a compiled function can be differentiated but once.
    """
    return gradients(start[0], inputs, start[1], retain_graph)
