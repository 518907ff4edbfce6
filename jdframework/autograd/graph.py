"""What the autograd graph of some tensors contains, in the same order in every run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from jdframework.autograd.leaf_hooks import without_leaf_hooks
from jdframework.autograd.sparse import noted
from jdframework.errors import NonFiniteError, UnsupportedModelError

_HIDES_LEAVES: Final = "CheckpointFunctionBackward"

Place: TypeAlias = tuple[Node, int]
"""The node of the graph that a tensor comes from, and which of its outputs the tensor is."""


@dataclass(frozen=True)
class Graph:
    """The nodes below some tensors, and the leaf tensors that were found."""

    nodes: dict[Node, None]
    leaves: list[Tensor]
    stopped_at: frozenset[Place] = frozenset()
    """The places of tensors that the walk met and did not go past."""

    def reaches(self, tensor: Tensor) -> bool:
        """Whether the tensors depend on ``tensor``."""
        return tensor.requires_grad and get_gradient_edge(tensor).node in self.nodes

    @property
    def operations(self) -> frozenset[str]:
        """The names of the differentiable operations, as autograd spells them."""
        return frozenset(node.name() for node in self.nodes)


def graph_of(tensors: Iterable[Tensor], stop_at: Sequence[Tensor] = ()) -> Graph:
    """Walks the graph of ``tensors``, depth first, not past the tensors ``stop_at``.

    :param tensors: Where to start; those that require no gradient contribute nothing.
    :param stop_at: Neither these tensors nor what they were computed from are visited, unless
        another path leads there.
    :raises UnsupportedModelError: if reentrant activation checkpointing hides part of the graph.
    """
    stops = {place_of(tensor) for tensor in stop_at if tensor.requires_grad}
    places = [place_of(tensor) for tensor in tensors if tensor.requires_grad]
    pending = places[::-1]
    nodes: dict[Node, None] = {}
    leaves: list[Tensor] = []
    met: set[Place] = set()
    while pending:
        node, output = pending.pop()
        if (node, output) in stops:
            met.add((node, output))
            continue
        if node in nodes:
            continue
        nodes[node] = None
        leaf = getattr(node, "variable", None)
        # Frozen since the graph was made: torch's backward pass leaves it alone, too.
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            leaves.append(leaf)
        following = node.next_functions
        if node.name() == _HIDES_LEAVES:
            raise UnsupportedModelError(
                "reentrant activation checkpointing hides parameters from the graph: "
                "use torch.utils.checkpoint.checkpoint(…, use_reentrant=False)"
            )
        pending += [(child, i) for child, i in reversed(following) if child is not None]
    return Graph(nodes, leaves, frozenset(met))


def leaves_of(tensors: Iterable[Tensor], stop_at: Sequence[Tensor] = ()) -> list[Tensor]:
    """The leaf tensors that ``tensors`` depend on; see :func:`graph_of`."""
    return graph_of(tensors, stop_at).leaves


def is_of_nothing(tensors: Iterable[Tensor]) -> bool:
    """Whether the tensors were computed from one without entries, as an empty batch gives."""
    return any(
        0 in each.shape
        for node in graph_of(tensors).nodes
        for each in getattr(node, "_input_metadata", ())
    )


def place_of(tensor: Tensor) -> Place:
    """The node of the graph that a tensor comes from, and which of its outputs the tensor is.

    :param tensor: One that requires gradients.
    """
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def without(tensors: Iterable[Tensor], excluded: Iterable[Tensor]) -> list[Tensor]:
    """``tensors`` less those that are (not: equal) one of ``excluded``, in their order."""
    identities = {id(tensor) for tensor in excluded}
    return [tensor for tensor in tensors if id(tensor) not in identities]


def gradients(
    outputs: Sequence[Tensor | GradientEdge],
    inputs: Sequence[Tensor | GradientEdge],
    output_gradients: Sequence[Tensor] | None,
    retain_graph: bool,
) -> list[Tensor | None]:
    """``torch.autograd.grad`` that takes no inputs, unused ones, and sparse gradients.

    Hooks on the inputs that are leaves do not run: they are run on the update, once.

    :raises UnsupportedModelError: if a compiled part of the graph can run only once.
    """
    if not inputs:
        return []
    # torch's own annotation has no sequences of both
    starts: Any = outputs
    targets: Any = inputs
    with without_leaf_hooks(inputs), refusing_donated_buffers():
        found = torch.autograd.grad(
            starts, targets, output_gradients, retain_graph=retain_graph, allow_unused=True
        )
    pairs = zip(found, inputs, strict=True)
    return [None if g is None else noted(g, of) for g, of in pairs]


@contextmanager
def refusing_donated_buffers() -> Iterator[None]:
    """Replaces torch's error about a compiled function's donated buffers by one with the remedy.

    :raises UnsupportedModelError: with the remedy.
    """
    try:
        yield
    except RuntimeError as error:
        if "donated buffer" not in str(error):
            raise
        raise UnsupportedModelError(
            "a compiled part of the model lets its graph run once only, but several objectives "
            "need it several times: write `import torch._functorch.config` and "
            "`torch._functorch.config.donated_buffer = False` before it first runs, or give the "
            "uncompiled model"
        ) from error


def stacked(rows: Sequence[Tensor | None]) -> Tensor | None:
    """The gradients of several passes as one tensor ``[m, *shape]``; None if all are None.

    :param rows: One per pass, None where nothing was reached.
    """
    known = next((row for row in rows if row is not None), None)
    if known is None:
        return None
    if len(rows) == 1:
        return known.unsqueeze(0)
    return torch.stack([torch.zeros_like(known) if row is None else row for row in rows])


def weighted_starts(weights: Tensor, outputs: Sequence[Tensor]) -> list[Tensor]:
    """The cotangents of a pass that gives the weighted sum of all entries' gradients.

    :param weights: One per entry of the outputs, ``[m]``.
    :param outputs: What is differentiated.
    """
    parts = torch.split(weights, [output.numel() for output in outputs])
    pairs = zip(parts, outputs, strict=True)
    # Copies: where an output is a leaf, this is its gradient.
    return [cast(part, output).reshape(output.shape).clone() for part, output in pairs]


def cast(weights: Tensor, like: Tensor) -> Tensor:
    """Weights in the dtype and on the device of what a pass starts from.

    :param weights: Finite.
    :param like: Whose gradient they are to be.
    :raises NonFiniteError: if a weight is out of its range.
    """
    found = weights.to(like)
    is_narrower = weights.dtype.itemsize > like.dtype.itemsize
    if is_narrower and not bool(found.isfinite().all()) and bool(weights.isfinite().all()):
        dtype = str(like.dtype).removeprefix("torch.")
        raise NonFiniteError(
            f"a weight of {float(weights.abs().max()):.0e} is out of the range of {dtype}, the "
            f"losses' dtype: give them in a wider dtype, or use engine='autojac'"
        )
    return found
