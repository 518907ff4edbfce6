"""Uses of a parameter outside of its layer's call, found on the graph node by node.

``F.linear(x, layer.weight)``, an attention's projections, a position embedding that is added: what
is needed of each is the gradient of the node's output, and what the node itself saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from jdframework.autograd.graph import Place

from jd_plugin_autogram.cost import ghost_is_cheaper
from jd_plugin_autogram.factors import Factors, SliceFactors
from jd_plugin_autogram.layout import Layout
from jd_plugin_autogram.operations import TensorUse, operation_for
from jd_plugin_autogram.operations.base import broadcast_dims, sum_over_broadcast


@dataclass(frozen=True)
class Part:
    """Some rows of a parameter, as they enter a node."""

    parameter: Tensor
    start: int
    stop: int
    transposed: bool
    """Whether the node is given the transpose."""

    @property
    def tensor(self) -> Tensor:
        """The part's rows, detached."""
        return self.parameter.detach()[self.start : self.stop]

    @property
    def is_whole(self) -> bool:
        """Whether they are all rows."""
        return self.stop - self.start == len(self.parameter)

    def overlaps(self, other: Part) -> bool:
        """Whether the two have some, but not all, rows in common."""
        same = (self.start, self.stop) == (other.start, other.stop)
        return not same and self.start < other.stop and other.start < self.stop


@dataclass(frozen=True)
class ParameterUse:
    """A node of the graph that uses a part of a parameter in a known way."""

    edge: GradientEdge
    """The node's output."""
    part: Part
    use: TensorUse
    """What the operation does with it."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Along which dimensions of the output instances may lie."""
        return self.use.dims

    def saves(self, k: int) -> bool:
        """Whether, for ``k`` losses of one instance, this is cheaper than autograd's own rows."""
        if self.use.inputs is None:
            return False
        length, outputs = self.edge.node._input_metadata[0].shape
        return ghost_is_cheaper(k, 1, length, self.use.inputs, outputs)

    def share(self, gradient: Tensor, layout: Layout) -> Factors:
        """What the use contributes.

        :param gradient: ``[k, *shape]``.
        :param layout: Where the instances lie in it.
        """
        part = self.part
        if part.is_whole:
            return self.use.make(part.parameter, gradient, layout, part.transposed)
        found = self.use.make(part.tensor, gradient, layout, part.transposed)
        return SliceFactors(self.part.parameter, found, self.part.start)


def parameter_uses(node: Node) -> dict[int, ParameterUse]:
    """The inputs of a node that are parameters, and how it uses them.

    :param node: Any node.
    :return: By the input's position; those that are not there are to be looked at further.
    """
    operation = operation_for(node.name())
    if operation is None:
        return {}
    found: dict[int, ParameterUse] = {}
    for position, child in enumerate(node.next_functions):
        part = _part(child)
        if part is None or child[0] is None:
            continue
        use = operation.use(node, position, child[0]._input_metadata[child[1]].shape)
        if use is not None and (use.transposable or not part.transposed):
            found[position] = ParameterUse(GradientEdge(node, 0), part, use)
    return found


@dataclass(frozen=True)
class Broadcast:
    """A node that adds a tensor to something larger, all of whose instances share it."""

    edge: GradientEdge
    """The node's output."""
    dims: tuple[int, ...]
    """The dimensions along which the tensor was broadcast."""
    shape: tuple[int, ...]
    """The tensor's."""
    place: Place
    """Where the tensor stands in the graph."""

    def rows(self, gradient: Tensor, layout: Layout) -> Tensor:
        """The gradient of the tensor, ``[m, *shape]``.

        :param gradient: That of the node's output, ``[k, *output.shape]``.
        :param layout: Where the instances lie in it.
        """
        return sum_over_broadcast(self.shape, gradient, layout)


def broadcasts(node: Node) -> dict[int, Broadcast]:
    """The inputs that a node adds to something larger, by their position."""
    if node.name() not in {"AddBackward0", "ExpandBackward0"}:
        return {}
    if getattr(node, "_saved_alpha", 1) != 1:
        return {}
    shape = tuple(node._input_metadata[0].shape)
    found = {}
    for position, (child, output) in enumerate(node.next_functions):
        if child is not None:
            own = tuple(child._input_metadata[output].shape)
            dims = broadcast_dims(own, shape)
            if any(shape[d] > 1 for d in dims):
                found[position] = Broadcast(GradientEdge(node, 0), dims, own, (child, output))
    return found


def _part(child: tuple[Node | None, int]) -> Part | None:
    """What enters a node, if it is a parameter's rows, cast or transposed on the way."""
    node, output = child
    transposed, start, stop = False, 0, None
    while node is not None:
        kind = node.name()
        if kind == "torch::autograd::AccumulateGrad":
            return _whole_or_rows(node, transposed, start, stop)
        step = node.next_functions[0] if node.next_functions else (None, 0)
        if _is_transpose(node, kind):
            if stop is not None:
                return None
            transposed = not transposed
        elif kind in {"SplitBackward0", "SplitWithSizesBackward0"} and stop is None:
            bounds = _bounds(node, output)
            if bounds is None:
                return None
            start, stop = bounds
        elif kind != "ToCopyBackward0":
            return None
        node, output = step
    return None


def _is_transpose(node: Any, kind: str) -> bool:
    """Whether it exchanges the two dimensions of a matrix, however that was written."""
    if kind == "TBackward0":
        return True
    if kind == "PermuteBackward0":
        return [dim % 2**64 for dim in node._saved_dims] in ([1, 0], [2**64 - 1, 2**64 - 2])
    return kind == "TransposeBackward0" and len(node._input_metadata[0].shape) == 2


def _whole_or_rows(node: Any, transposed: bool, start: int, stop: int | None) -> Part | None:
    parameter: Tensor = node.variable
    if parameter.ndim == 0:
        return None
    return Part(parameter, start, len(parameter) if stop is None else stop, transposed)


def _bounds(node: Any, output: int) -> tuple[int, int] | None:
    """Which rows the output of a split holds; None if it splits no rows."""
    if node._saved_dim != 0:
        return None
    length = node._saved_self_sym_sizes[0]
    sizes = getattr(node, "_saved_split_sizes", None)
    if sizes is None:
        size = node._saved_split_size
        return output * size, min((output + 1) * size, length)
    start = sum(sizes[:output])
    return start, start + sizes[output]
