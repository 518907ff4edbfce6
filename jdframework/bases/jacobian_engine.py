"""Base of engines that form the Jacobian: whatever else is needed follows from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor

from jdframework import linalg
from jdframework.accumulation import add_to_grad
from jdframework.autograd_graph import Graph, dense, gradients, graph_of, weighted_starts, without
from jdframework.bases.engine import Engine
from jdframework.combination import Combination, combine, groups_of
from jdframework.errors import UnsupportedModelError
from jdframework.multitask import as_scalars, cut_at, head_params
from jdframework.objectives import check_differentiable, objectives
from jdframework.outcome import Check, Forecast, Outcome

_JOINED_COPIES: Final = 3
"""A method of the Jacobian gets one whose blocks are joined, and makes something of its size."""


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
        """What the rows start from if each is that of one entry of the outputs, in order.

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

    def compute_jacobian(self, losses: Tensor | Sequence[Tensor], /) -> tuple[Tensor, ...]:
        """One ``[m, *parameter.shape]`` per parameter, zero where no loss depends on it.

        :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
        """
        outputs, parameters = checked_losses(losses), self.parameters
        m = sum(output.numel() for output in outputs)
        found = self.differentiate(outputs, parameters, retain_graph=True)
        return tuple(
            parameter.new_zeros((m, *parameter.shape)) if block is None else block
            for parameter, block in zip(parameters, found, strict=True)
        )

    def compute_gramian(self, losses: Tensor | Sequence[Tensor], /) -> Float[Tensor, "m m"]:
        """The Gramian of the losses with respect to ``parameters``; the graph stays.

        :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
        :raises ValueError: if they depend on no parameter.
        """
        outputs, parameters = checked_losses(losses), self.parameters
        graph = graph_reaching(outputs, parameters)
        found = self._differentiated(graph, outputs, parameters, None, retain_graph=True)
        return linalg.gramian([block for block in found if block is not None])

    def update(
        self,
        losses: Tensor | Sequence[Tensor],
        method: Any,
        /,
        *,
        features: Sequence[Tensor] | None = None,
        retain_graph: bool = False,
        check: Check | None = None,
    ) -> Outcome:
        """See :meth:`jdframework.bases.Engine.update`."""
        outputs = checked_losses(losses)
        if features is None:
            return self._update_everything(outputs, method, retain_graph, check)
        return self._update_trunk(outputs, features, method, retain_graph, check)

    def forecast(
        self,
        losses: Tensor | Sequence[Tensor],
        method: Any,
        /,
        *,
        features: Sequence[Tensor] | None = None,
    ) -> Forecast:
        """The whole Jacobian, and what the method makes of it."""
        outputs, parameters = checked_losses(losses), self.parameters
        graph = graph_reaching(outputs, parameters)
        row = sum(p.numel() * p.dtype.itemsize for p in parameters if graph.reaches(p))
        m = sum(output.numel() for output in outputs)
        return Forecast("all rows at once", _copies(method, len(parameters)) * m * row)

    def _update_everything(
        self, outputs: list[Tensor], method: Any, retain_graph: bool, check: Check | None
    ) -> Outcome:
        parameters = self.parameters
        graph = graph_reaching(outputs, parameters)
        outside = without(graph.leaves, parameters)
        combined = self._combined(
            graph,
            outputs,
            parameters,
            method,
            starts=None,
            losses=_values(outputs),
            check=check,
            retain_graph=retain_graph or bool(outside),
        )
        rest = self._weighted_rest(outputs, outside, combined.outcome.weights, retain_graph)
        add_to_grad([*parameters, *outside], [*combined.directions, *rest])
        return combined.outcome

    def _weighted_rest(
        self,
        outputs: list[Tensor],
        outside: list[Tensor],
        weights: Tensor | None,
        retain_graph: bool,
    ) -> list[Tensor | None]:
        """What ``losses.backward(weights)`` gives leaves that are not the engine's."""
        if not outside:
            return []
        if weights is None:
            shapes = ", ".join(str(list(tensor.shape)) for tensor in outside[:3])
            raise UnsupportedModelError(
                f"the losses also depend on {len(outside)} tensors outside of the given modules "
                f"(shapes {shapes}), for which a method without weights has no update: give "
                f"features=…, add their module to the Descent, or, if they are data that a loss "
                f"is differentiated by, call requires_grad_(False) on them before backward"
            )
        starts = weighted_starts(weights, outputs)
        return gradients(outputs, outside, starts, retain_graph=retain_graph)

    def _update_trunk(
        self,
        outputs: list[Tensor],
        features: Sequence[Tensor],
        method: Any,
        retain_graph: bool,
        check: Check | None,
    ) -> Outcome:
        losses, shared = as_scalars(outputs), self.parameters
        tasks = head_params(losses, features, shared)
        cut = cut_at(features, losses, tasks, shared, retain_graph=retain_graph)
        combined = self._combined(
            graph_reaching(cut.outputs, shared),
            cut.outputs,
            shared,
            method,
            starts=cut.starts,
            losses=_values(outputs),
            check=check,
            retain_graph=retain_graph,
        )
        add_to_grad([*shared, *cut.head_params], [*combined.directions, *cut.head_gradients])
        return combined.outcome

    def _combined(
        self,
        graph: Graph,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor],
        method: Any,
        *,
        starts: Sequence[Tensor] | None,
        losses: Float[Tensor, " m"],
        check: Check | None,
        retain_graph: bool,
    ) -> Combination:
        """What the method makes of the Jacobian, for engines that need not form it for that."""
        jacobians = self._differentiated(graph, outputs, inputs, starts, retain_graph)
        return combine(method, jacobians, losses=losses, check=check)

    def _differentiated(
        self,
        graph: Graph,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor],
        starts: Sequence[Tensor] | None,
        retain_graph: bool,
    ) -> tuple[Tensor | None, ...]:
        """:meth:`differentiate`, for engines that make use of a graph that is known already."""
        return self.differentiate(outputs, inputs, jac_outputs=starts, retain_graph=retain_graph)


def _copies(method: Any, blocks: int) -> int:
    """How often as much memory as the Jacobian takes is held at once."""
    if "cross-gramian" in method.needs:
        return 2
    inner = [getattr(one, "weighting", one) for one, _ in groups_of(method, blocks)]
    by_gramian = all(one.kind == "weighting" and "jacobian" not in one.needs for one in inner)
    return 1 if by_gramian else _JOINED_COPIES


def graph_reaching(outputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> Graph:
    """The graph of losses that depend on some of the parameters.

    :param outputs: What was computed.
    :param parameters: The engine's.
    :raises ValueError: if they depend on none of them.
    """
    graph = graph_of(outputs)
    if not any(graph.reaches(parameter) for parameter in parameters):
        raise ValueError(
            "the losses depend on no parameter of the engine's modules that requires gradients: "
            "are these the modules that computed them?"
        )
    return graph


def checked_losses(losses: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The losses as tensors that can be differentiated.

    :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
    :raises ValueError: if there is none, or one has no graph.
    """
    given = objectives(losses)
    check_differentiable(given)
    return list(given.tensors)


def _values(outputs: Sequence[Tensor]) -> Float[Tensor, " m"]:
    return torch.cat([output.detach().reshape(-1) for output in outputs])
