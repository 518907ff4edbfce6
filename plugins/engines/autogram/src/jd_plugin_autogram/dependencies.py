"""What the losses depend on: the uses of parameters, found by walking the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from jdframework.autograd.graph import Place
from jdframework.errors import UnsupportedModelError

from jd_plugin_autogram.parameter_uses import Broadcast, ParameterUse, broadcasts, parameter_uses
from jd_plugin_autogram.recording import Call, Recorder
from jd_plugin_autogram.rules import rule_for

_HIDING: Final = "CheckpointFunctionBackward"

Consumer: TypeAlias = Node | Call
"""What uses a tensor: an operation, or a recorded call, which hides those inside of it."""


@dataclass(frozen=True)
class Dependencies:
    """What the losses depend on."""

    calls: list[tuple[Call, dict[int, GradientEdge]]]
    """The recorded calls, in a fixed order, and where their outputs stand in the graph."""
    parameter_uses: list[ParameterUse]
    """The uses of parameters outside of recorded calls."""
    broadcast_calls: list[tuple[Call, Broadcast]]
    """Calls whose outputs are only added to something larger."""
    unrecognised: list[Tensor]
    """Leaves that are reached in a way that no rule knows."""
    overlapping: list[Tensor]
    """Parameters of which two uses share some rows, but not all."""
    nodes: dict[Node, None]
    """Every node that was visited."""
    roots: frozenset[Place]
    """Where the losses stand."""
    consumers: dict[Place, list[Consumer]]
    """What uses the tensor at each place."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Those of the nodes, in the order in which they were visited."""
        return tuple(node.name() for node in self.nodes)

    @cached_property
    def numbered(self) -> list[Node]:
        """The nodes, in the order in which they were visited."""
        return list(self.nodes)

    def outputs_of(self, consumer: Consumer) -> list[Place]:
        """Where the outputs of an operation or of a recorded call stand that the losses depend on.

        :param consumer: One that was visited.
        """
        if isinstance(consumer, Call):
            return self._outputs_of_calls[id(consumer)]
        places = ((consumer, i) for i in range(len(_outputs(consumer))))
        return [place for place in places if place in self.consumers or place in self.roots]

    @cached_property
    def _outputs_of_calls(self) -> dict[int, list[Place]]:
        found = {
            id(call): [(edge.node, edge.output_nr) for edge in edges.values()]
            for call, edges in self.calls
        }
        for call, broadcast in self.broadcast_calls:
            found.setdefault(id(call), []).append(broadcast.place)
        return found

    @property
    def leaves(self) -> list[Tensor]:
        """Those that no recorded call has taken; none that was frozen after the forward pass."""
        found = [*self.unrecognised, *(use.part.parameter for use in self.parameter_uses)]
        return list({id(leaf): leaf for leaf in found if leaf.requires_grad}.values())

    @cached_property
    def kind(self) -> tuple[tuple[str, ...], frozenset[str]]:
        """What two passes through the same model on batches of different size have in common."""
        labels = [f"{type(call.layer).__name__} {id(call.layer)}" for call, _ in self.calls]
        labels += [f"{id(call.layer)} spread" for call, _ in self.broadcast_calls]
        labels += [
            f"{use.edge.node.name()} {id(use.part.parameter)}" for use in self.parameter_uses
        ]
        return tuple(labels), frozenset(self.names)


def dependencies_of(
    losses: Sequence[Tensor], recorder: Recorder, per_instance: bool
) -> Dependencies:
    """Walks the graph of the losses; a recorded call is one step, from its outputs to its inputs.

    A parameter that is used outside of its layer's own call is therefore reached, and found.

    :param losses: Where to start.
    :param recorder: What recorded the forward pass.
    :param per_instance: Whether there are instances, which may share a call's output.
    """
    return _Walk(recorder, per_instance).dependencies(
        [_place(get_gradient_edge(loss)) for loss in losses]
    )


class _Walk:
    def __init__(self, recorder: Recorder, per_instance: bool) -> None:
        self._recorder, self._per_instance = recorder, per_instance
        self._pending: list[tuple[Node, int]] = []
        self._nodes: dict[Node, None] = {}
        self._walked: set[Node] = set()
        self._entered: dict[int, bool] = {}
        self._calls: dict[int, tuple[Call, dict[int, GradientEdge]]] = {}
        self._broadcast_calls: list[tuple[Call, Broadcast]] = []
        self._parameter_uses: list[ParameterUse] = []
        self._leaves: list[Tensor] = []
        self._consumers: dict[Place, list[Consumer]] = {}

    def dependencies(self, starts: Sequence[tuple[Node, int]]) -> Dependencies:
        """Everything below some places."""
        self._pending = list(reversed(starts))
        roots = frozenset(starts)
        while self._pending:
            node, output = self._pending.pop()
            self._recorder.check_unused(node)
            self._nodes[node] = None
            found = self._recorder.found_at(node, output)
            if found is not None and self._enter(found[0]):
                call, position = found
                edges = self._calls.setdefault(id(call), (call, {}))[1]
                edges[position] = GradientEdge(node, output)
            elif node not in self._walked:
                self._walked.add(node)
                self._step(node)
        broadcast_calls = [pair for pair in self._broadcast_calls if id(pair[0]) not in self._calls]
        return Dependencies(
            list(self._calls.values()),
            self._parameter_uses,
            broadcast_calls,
            self._leaves,
            _overlapping(self._parameter_uses),
            self._nodes,
            roots,
            self._consumers,
        )

    def _enter(self, call: Call) -> bool:
        """Whether the call is served; if so, goes on from its inputs, once."""
        known = self._entered.get(id(call))
        if known is None:
            known = self._entered[id(call)] = _is_served(call)
            if known:
                places = [_place(edge) for edge in call.input_edges]
                for place in places:
                    self._consumers.setdefault(place, []).append(call)
                self._pending.extend(reversed(places))
        return known

    def _step(self, node: Node) -> None:
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            self._leaves.append(leaf)
            return
        if node.name() == _HIDING:
            raise UnsupportedModelError(
                "reentrant activation checkpointing hides parameters from the graph: "
                "use torch.utils.checkpoint.checkpoint(…, use_reentrant=False)"
            )
        understood = parameter_uses(node)
        self._parameter_uses += understood.values()
        shared = broadcasts(node) if self._per_instance else {}
        for position, (child, output) in reversed(list(enumerate(node.next_functions))):
            if child is None or position in understood:
                continue
            self._consumers.setdefault((child, output), []).append(node)
            found = self._recorder.found_at(child, output) if position in shared else None
            if found is not None and found[0].outputs == 1 and self._enter(found[0]):
                self._nodes[child] = None
                self._broadcast_calls.append((found[0], shared[position]))
            else:
                self._pending.append((child, output))


def _is_served(call: Call) -> bool:
    rule = rule_for(call.layer)
    known = rule.parameters is None or all(
        name in rule.parameters for name, tensor in call.state.items() if tensor.requires_grad
    )
    known = known and (rule.cuts or not call.nested)
    return known and not call.parameters_replaced and rule.serves(call)


def _overlapping(parameter_uses: Sequence[ParameterUse]) -> list[Tensor]:
    """The parameters of which two uses share some rows, but not all."""
    found: dict[int, Tensor] = {}
    by_parameter: dict[int, list[ParameterUse]] = {}
    for use in parameter_uses:
        others = by_parameter.setdefault(id(use.part.parameter), [])
        if any(use.part.overlaps(other.part) for other in others):
            found[id(use.part.parameter)] = use.part.parameter
        others.append(use)
    return list(found.values())


def _outputs(node: Any) -> Any:
    return node._input_metadata


def _place(edge: GradientEdge) -> tuple[Node, int]:
    return edge.node, edge.output_nr
