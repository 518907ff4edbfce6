"""Uses of a parameter outside of its layer's call, found on the graph node by node.

``F.linear(x, layer.weight)``, an attention's projections, a position embedding that is added: what
is needed of each is the gradient of the node's output, and what the node itself saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from jd_plugin_autogram.cost import ghost_is_cheaper
from jd_plugin_autogram.factors import Factors, Product, Rows, SliceFactors, by_objective
from jd_plugin_autogram.layout import Layout


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
        """The rows."""
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
    dims: tuple[int, ...]
    """Along which dimensions of the output instances may lie."""
    make: Callable[[Tensor, Tensor, Layout], Factors]
    """Given the part, its output's gradient ``[k, *shape]``, and its layout."""

    inputs: int | None = None
    """``d`` of a product; None if it is none."""

    def saves(self, k: int) -> bool:
        """Whether, for ``k`` losses of one instance, this is cheaper than autograd's own rows."""
        if self.inputs is None:
            return False
        length, outputs = self.edge.node._input_metadata[0].shape
        return ghost_is_cheaper(k, 1, length, self.inputs, outputs)

    def share(self, gradient: Tensor, layout: Layout) -> Factors:
        """What the use contributes.

        :param gradient: ``[k, *shape]``.
        :param layout: Where the instances lie in it.
        """
        if self.part.is_whole:
            return self.make(self.part.parameter, gradient, layout)
        found = self.make(self.part.tensor, gradient, layout)
        return SliceFactors(self.part.parameter, found, self.part.start)


def parameter_uses(node: Node) -> dict[int, ParameterUse]:
    """The inputs of a node that are parameters, and how it uses them.

    :param node: Any node.
    :return: By the input's position; those that are not there are to be looked at further.
    """
    recognise = _KINDS.get(node.name())
    return {} if recognise is None else recognise(node)


@dataclass(frozen=True)
class Broadcast:
    """A node that adds a tensor to something larger, all of whose instances share it."""

    edge: GradientEdge
    """The node's output."""
    dims: tuple[int, ...]
    """The dimensions along which the tensor was broadcast."""
    shape: tuple[int, ...]
    """The tensor's."""

    def rows(self, gradient: Tensor, layout: Layout) -> Tensor:
        """The gradient of the tensor, ``[m, *shape]``.

        :param gradient: That of the node's output, ``[k, *output.shape]``.
        :param layout: Where the instances lie in it.
        """
        return _sum_over_broadcast(self.shape, gradient, layout)


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
            dims = _broadcast(own, shape)
            if any(shape[d] > 1 for d in dims):
                found[position] = Broadcast(GradientEdge(node, 0), dims, own)
    return found


def _addmm(node: Any) -> dict[int, ParameterUse]:
    if node._saved_alpha != 1 or node._saved_beta != 1:
        return {}
    return _added(node, (0,)) | _multiplied(node, 2, "_saved_mat1")


def _mm(node: Any) -> dict[int, ParameterUse]:
    return _multiplied(node, 1, "_saved_self")


def _add(node: Any) -> dict[int, ParameterUse]:
    return _added(node, (0, 1) if node._saved_alpha == 1 else (0,))


def _multiplied(node: Any, position: int, saved: str) -> dict[int, ParameterUse]:
    part = _part(node.next_functions[position])
    if part is None or part.parameter.ndim != 2:
        return {}
    inputs: Tensor = getattr(node, saved).detach()
    if inputs.layout is not torch.strided:
        return {}

    def make(target: Tensor, gradient: Tensor, layout: Layout) -> Factors:
        a, b = layout.split(inputs), layout.split(gradient, 1)
        a, b = a.reshape(len(a), -1, a.shape[-1]), b.reshape(*b.shape[:2], -1, b.shape[-1])
        return Product(target, a.to(b.dtype), b, swapped=not part.transposed)

    return {position: ParameterUse(GradientEdge(node, 0), part, (0,), make, inputs.shape[1])}


def _added(node: Node, positions: Iterable[int]) -> dict[int, ParameterUse]:
    shape = tuple(node._input_metadata[0].shape)
    found = {}
    for position in positions:
        part = _part(node.next_functions[position])
        if part is not None and not part.transposed:
            dims = _broadcast(tuple(part.tensor.shape), shape)
            found[position] = ParameterUse(GradientEdge(node, 0), part, dims, _summed)
    return found


def _expanded(node: Any) -> dict[int, ParameterUse]:
    return _added(node, (0,))


def _repeated(node: Any) -> dict[int, ParameterUse]:
    sizes = [1] * len(node._saved_repeats)
    sizes[len(sizes) - len(node._saved_self_sym_sizes) :] = node._saved_self_sym_sizes
    tiled = any(size > 1 and r > 1 for size, r in zip(sizes, node._saved_repeats, strict=True))
    return {} if tiled else _added(node, (0,))


def _scaled(node: Any) -> dict[int, ParameterUse]:
    shape = tuple(node._input_metadata[0].shape)
    found = {}
    for position, saved in ((0, "_saved_other"), (1, "_saved_self")):
        part = _part(node.next_functions[position])
        if part is None or part.transposed:
            continue
        scale = getattr(node, saved)
        if isinstance(scale, Tensor):
            dims = _broadcast(tuple(part.tensor.shape), shape)
            found[position] = ParameterUse(
                GradientEdge(node, 0), part, dims, _scaler(scale.detach())
            )
    return found


def _scaler(scale: Tensor) -> Callable[[Tensor, Tensor, Layout], Factors]:
    def make(target: Tensor, gradient: Tensor, layout: Layout) -> Factors:
        return _summed(target, gradient * scale, layout)

    return make


def _summed(target: Tensor, gradient: Tensor, layout: Layout) -> Factors:
    return Rows(target, _sum_over_broadcast(tuple(target.shape), gradient, layout))


def _sum_over_broadcast(shape: Sequence[int], gradient: Tensor, layout: Layout) -> Tensor:
    """The gradient of what was broadcast: the sum over all that it was broadcast to."""
    split = layout.split(gradient, 1)
    extra = split.ndim - 2 - len(shape)
    sums = split.sum(tuple(range(2, 2 + extra))) if extra else split
    kept = tuple(d + 2 for d, size in enumerate(shape) if size == 1 and sums.shape[d + 2] != 1)
    return by_objective(sums.sum(kept, keepdim=True) if kept else sums)


def _broadcast(shape: Sequence[int], output: Sequence[int]) -> tuple[int, ...]:
    """The dimensions of the output along which a tensor was broadcast."""
    extra = len(output) - len(shape)
    return tuple(d for d in range(len(output)) if d < extra or shape[d - extra] == 1)


_KINDS: Final[dict[str, Callable[[Any], dict[int, ParameterUse]]]] = {
    "AddmmBackward0": _addmm,
    "MmBackward0": _mm,
    "AddBackward0": _add,
    "MulBackward0": _scaled,
    "ExpandBackward0": _expanded,
    "RepeatBackward0": _repeated,
}


def _part(child: tuple[Node | None, int]) -> Part | None:
    """What enters a node, if it is a parameter's rows, cast or transposed on the way."""
    node, output = child
    transposed, start, stop = False, 0, None
    while node is not None:
        kind = node.name()
        if kind == "torch::autograd::AccumulateGrad":
            return _whole_or_rows(node, transposed, start, stop)
        step = node.next_functions[0] if node.next_functions else (None, 0)
        if kind == "TBackward0":
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
