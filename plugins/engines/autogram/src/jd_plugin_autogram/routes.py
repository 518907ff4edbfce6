"""The ways from the losses to the parameters: through recorded layer calls, or around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from jd_plugin_autogram.recording import Call, Recorder


@dataclass(frozen=True)
class Visit:
    """A recorded call that the losses depend on, and where its outputs stand in the graph."""

    call: Call
    edges: dict[int, GradientEdge] = field(default_factory=dict)
    """By the output's position."""


@dataclass(frozen=True)
class Routes:
    """What the losses depend on."""

    visits: list[Visit]
    """The recorded calls, in a fixed order."""
    around: list[Tensor]
    """Leaves that are reached on a path that no recorded call is on."""
    nodes: dict[Node, None]
    """Every node that was visited."""


def routes_of(losses: Sequence[Tensor], recorder: Recorder) -> Routes:
    """Walks the graph of the losses; a recorded call is one step, from its outputs to its inputs.

    A parameter that is used outside of its layer's own call is therefore reached, and found.

    :param losses: Where to start.
    :param recorder: What recorded the forward pass.
    """
    pending = [_place(get_gradient_edge(loss)) for loss in reversed(losses)]
    nodes: dict[Node, None] = {}
    seen: set[tuple[Node, int]] = set()
    visits: dict[int, Visit] = {}
    leaves: list[Tensor] = []
    while pending:
        node, output = pending.pop()
        found = recorder.found_at(node, output)
        if found is not None:
            call, position = found
            if (node, output) in seen:
                continue
            seen.add((node, output))
            nodes[node] = None
            known = id(call) in visits
            visit = visits.setdefault(id(call), Visit(call))
            visit.edges[position] = GradientEdge(node, output)
            if not known:
                pending.extend(_place(edge) for edge in reversed(call.input_edges))
            continue
        if node in nodes and (node, -1) in seen:
            continue
        seen.add((node, -1))
        nodes[node] = None
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            leaves.append(leaf)
        pending.extend(
            (child, i) for child, i in reversed(node.next_functions) if child is not None
        )
    return Routes(list(visits.values()), leaves, nodes)


def _place(edge: GradientEdge) -> tuple[Node, int]:
    return edge.node, edge.output_nr
