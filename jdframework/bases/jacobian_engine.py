"""Base of engines that form the Jacobian: whatever else is needed follows from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor

from jdframework import linalg
from jdframework.autograd.graph import Graph, gradients, graph_of, weighted_starts, without
from jdframework.autograd.sparse import dense
from jdframework.bases.engine import Engine
from jdframework.linearization import Demand, Forecast, Gradients, JacobianRows
from jdframework.linearization.combination import NOTHING_REACHED

COPIES: Final[dict[Demand, int]] = {"gramian": 1, "cross-gramian": 2, "columns": 3, "rows": 3}
"""How often as much memory as the Jacobian takes is held at once: a method of its rows, or columns,
gets one whose blocks are joined, and makes something of its size."""


class JacobianEngine(Engine):
    """Base of an engine that leaves its author only :meth:`differentiate`.

    It serves every method on every model that ``differentiate`` can differentiate.

    :param modules: The modules whose parameters the objectives share.
    :param config: The engine's settings.
    :raises ConfigError: if it does not take these settings.
    :raises UnsupportedModelError: if a module is wrapped for distributed training.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"gramian", "jacobian", "fused"})

    @abstractmethod
    def differentiate(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor],
        *,
        jac_outputs: Sequence[Tensor] | None = None,
        retain_graph: bool = False,
    ) -> tuple[Tensor | None, ...]:
        """The Jacobian of any tensors with respect to any others.

        :param outputs: What to differentiate, one row per entry.
        :param inputs: With respect to what.
        :param jac_outputs: What each of ``m`` rows starts from, ``[m, *output.shape]`` per output;
            None stands for :meth:`unit_starts`.
        :param retain_graph: Whether the graph can be used again.
        :return: One ``[m, *input.shape]`` per input, None where no output depends on it.
        """

    @staticmethod
    def unit_starts(outputs: Sequence[Tensor]) -> list[Tensor]:
        """Unit cotangents: each row is that of one entry of the outputs, in order.

        :param outputs: What is differentiated, ``m`` entries in all.
        :return: ``[m, *output.shape]`` per output.
        """
        m = sum(output.numel() for output in outputs)
        identity = torch.eye(m, dtype=outputs[0].dtype, device=outputs[0].device)
        parts = torch.split(identity, [output.numel() for output in outputs], dim=1)
        return [
            part.to(output).reshape(m, *output.shape)
            for part, output in zip(parts, outputs, strict=True)
        ]

    @staticmethod
    def stacked(rows: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
        """One input's rows as a block; None where all of them are.

        :param rows: One gradient of the input per row, None where it is zero.
        :param like: The input.
        :return: ``[m, *like.shape]``, or None.
        """
        if all(row is None for row in rows):
            return None
        return torch.stack([torch.zeros_like(like) if row is None else dense(row) for row in rows])

    def linearize(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor] | None = None,
        *,
        cotangents: Sequence[Float[Tensor, "m *shape"]] | None = None,
        groups: Sequence[Sequence[int]] | None = None,
        need: Demand = "gramian",
        retain_graph: bool = False,
    ) -> DifferentiatedRows:
        """See :meth:`jdframework.bases.Engine.linearize`; the rows are taken when first needed."""
        starts = Starts(outputs, cotangents, inputs, self.parameters if inputs is None else inputs)
        return DifferentiatedRows(self, starts, groups, need, retain_graph)

    def _differentiated(self, starts: Starts, retain_graph: bool) -> tuple[Tensor | None, ...]:
        """:meth:`differentiate`, for engines that make use of a graph that is known already."""
        return self.differentiate(
            starts.outputs, starts.columns, jac_outputs=starts.cotangents, retain_graph=retain_graph
        )

    def _foreseen(self, starts: Starts, held: int) -> Forecast:
        """How the rows would be taken.

        :param starts: What they are of.
        :param held: What they, and what a method makes of them, take.
        """
        return Forecast("all rows at once", held)


class Starts:
    """The outputs whose rows are taken, and each row's cotangents.

    :param outputs: What is differentiated.
    :param cotangents: What each row starts from; one per entry of the outputs when None.
    :param inputs: With respect to what, as it was asked for.
    :param columns: The same, as it is meant.
    """

    def __init__(
        self,
        outputs: Sequence[Tensor],
        cotangents: Sequence[Tensor] | None,
        inputs: Sequence[Tensor] | None,
        columns: Sequence[Tensor],
    ) -> None:
        self.outputs, self.cotangents, self.columns = outputs, cotangents, columns
        self.graph: Graph = graph_of(outputs)
        self.outside = without(self.graph.leaves, columns) if inputs is None else []

    @property
    def m(self) -> int:
        """How many rows there are."""
        if self.cotangents is not None:
            return len(self.cotangents[0])
        return sum(output.numel() for output in self.outputs)

    def weighted(self, weights: Float[Tensor, " m"]) -> Sequence[Tensor]:
        """What one pass starts from that gives the weighted sum of all rows."""
        if self.cotangents is not None:
            return linalg.weighted_sum(self.cotangents, weights)
        return weighted_starts(weights, self.outputs)


class DifferentiatedRows(JacobianRows):
    """A linearization whose rows are computed, all at once, when they are first needed.

    :param engine: What takes them.
    :param starts: What they are of.
    :param groups: Positions of inputs; one group of all when None.
    :param need: What will be asked for.
    :param retain_graph: Whether the graph can be used again.
    """

    def __init__(
        self,
        engine: JacobianEngine,
        starts: Starts,
        groups: Sequence[Sequence[int]] | None,
        need: Demand,
        retain_graph: bool,
    ) -> None:
        super().__init__(starts.columns, (), groups)
        self._blocks = None
        self._engine, self.starts, self._need, self._retain = engine, starts, need, retain_graph
        self.outside = starts.outside

    def jacobian(self) -> tuple[Float[Tensor, "m *shape"] | None, ...]:
        """See :meth:`jdframework.linearization.Linearization.jacobian`."""
        if self._blocks is None:
            retain = self._retain or bool(self.outside)
            self._blocks = self._engine._differentiated(self.starts, retain)
        return super().jacobian()

    def vjp(self, weights: Sequence[Float[Tensor, " m"] | None]) -> Gradients:
        """``Jᵀw`` of the rows, if they were taken; otherwise by one plain pass for each group."""
        tensors: list[Tensor] = []
        found: list[Tensor | None] = []
        if self._blocks is not None:
            tensors, found = super().vjp(weights)
            passes = [(weights[0], self.outside)] if self.outside else []
        else:
            own = [[self.inputs[i] for i in group] for group in self.groups]
            passes = [(w, ts) for w, ts in zip(weights, own, strict=True) if w is not None]
            passes[-1] = passes[-1][0], [*passes[-1][1], *self.outside]
        for left, (weight, targets) in zip(reversed(range(len(passes))), passes, strict=True):
            assert weight is not None
            start = self.starts.weighted(weight)
            found += gradients(self.starts.outputs, targets, start, self._retain or left > 0)
            tensors += targets
        return tensors, found

    def forecast(self) -> Forecast:
        """The whole Jacobian, and what a method makes of it.

        :raises ValueError: if nothing depends on any input.
        """
        reached = [tensor for tensor in self.inputs if self.starts.graph.reaches(tensor)]
        if not reached:
            raise ValueError(NOTHING_REACHED)
        row = sum(tensor.numel() * tensor.dtype.itemsize for tensor in reached)
        held = COPIES[self._need] * self.starts.m * row
        return self._engine._foreseen(self.starts, held)
