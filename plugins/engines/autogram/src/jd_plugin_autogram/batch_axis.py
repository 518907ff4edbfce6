"""Whether the batch axis of each tensor can be remembered, as seen on the graph.

Some operations choose places by the data: of where instances lie, one batch tells nothing about
the next.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

_CHOOSING: Final = (
    "Index",
    "Gather",
    "Scatter",
    "Sort",
    "Topk",
    "Take",
    "MaskedSelect",
    "MaskedScatter",
    "PackPadded",
)
"""How the names of operations begin that move entries to other places."""
_CUTTING: Final = ("Slice", "Narrow", "Split", "Cat")
"""The same of those that part or join tensors."""
_TURNING: Final = ("Sum", "Mean", "Permute", "Transpose", "Roll", "Flip")
"""The same of those that exchange or turn dimensions, or leave one."""
_DIMENSIONS: Final = ("_saved_dim", "_saved_dims", "_saved_dim0", "_saved_dim1", "_saved_shifts")
_MULTIPLYING: Final = {
    "MmBackward0": 1,
    "AddmmBackward0": 2,
    "BmmBackward0": 1,
    "SparseMmBackward0": 1,
    "SparseAddmmBackward0": 2,
}
"""Operations that sum over the second dimension from the end of this input, as a graph network sums
over neighbours."""


class AxisKey(NamedTuple):
    """What two batches have in common whose instances lie at the same places."""

    operations: tuple[Hashable, ...]
    leading: bool
    """Whether that holds only where instances lie along the first dimension everywhere."""


def batch_axis_key(nodes: Iterable[Node], n: int) -> AxisKey | None:
    """What two batches have in common whose instances lie at the same places.

    :param nodes: Those of the graph.
    :param n: How many instances there are.
    :return: None if the next batch may have them elsewhere.
    """
    found: list[Hashable] = []
    leading = False
    for node in nodes:
        name = node.name()
        if name.startswith(_CUTTING):
            found.append((name, _cut(node, n)))
        elif name.startswith(_TURNING):
            found.append((name, *(str(getattr(node, field, "")) for field in _DIMENSIONS)))
        elif not _stays(node, name, n):
            if not _keeps_first(node, name, n):
                return None
            leading = True
    return AxisKey(tuple(found), leading)


def _stays(node: Any, name: str, n: int) -> bool:
    """Whether it leaves each entry with its instance, whatever the data are."""
    if name in _MULTIPLYING:
        return not _sums_over(node, _MULTIPLYING[name], n)
    if not name.startswith(_CHOOSING):
        return True
    if name == "IndexBackward0":
        return _takes_each_once(node)
    dim, shape = getattr(node, "_saved_dim", None), _shape(node)
    if dim is None or not shape:
        return False
    place = _signed(dim) % len(shape)
    return shape[place] % n != 0 or 2 <= place == len(shape) - 1  # features, which are last


def _keeps_first(node: Any, name: str, n: int) -> bool:
    """Whether it moves nothing along the first dimension, which has an entry per instance."""
    shape = _shape(node)
    if not shape or shape[0] != n or len(shape) < 2:
        return False
    if name.startswith(("IndexBackward", "IndexPut")):
        try:
            return node._saved_indices[0] is None
        except RuntimeError:  # a checkpoint that will not compute it now
            return False
    dim = getattr(node, "_saved_dim", None)
    return dim is not None and _signed(dim) % len(shape) != 0


def _sums_over(node: Node, position: int, n: int) -> bool:
    """Whether instances may lie along the dimension that is summed over."""
    child, output = node.next_functions[position]
    if child is None or _is_of_leaf(child):
        return False
    *batches, summed, _ = child._input_metadata[output].shape
    return summed % n == 0 and all(size % n for size in batches)


def _is_of_leaf(node: Node) -> bool:
    """Whether it gives a leaf, or the transpose or a part of one."""
    while len(node.next_functions) == 1 and node.next_functions[0][0] is not None:
        node = node.next_functions[0][0]
    return hasattr(node, "variable")


def _takes_each_once(node: Any) -> bool:
    """Whether it goes through some dimension in order, as ``x[arange(n), lengths]`` does."""
    try:
        indices, shape = node._saved_indices, _shape(node)
    except RuntimeError:  # a checkpoint that will not compute it now
        return False
    return any(
        isinstance(index, Tensor)
        and index.dtype == torch.long
        and tuple(index.shape) == (size,)
        and torch.equal(index, torch.arange(size, device=index.device))
        for index, size in zip(indices, shape, strict=False)
    )


def _cut(node: Any, n: int) -> Hashable:
    """At which shares of the dimension, if instances may lie along it."""
    inputs = [c._input_metadata[i].shape for c, i in node.next_functions if c is not None]
    shapes = [tuple(shape) for shape in inputs]
    dim = _signed(getattr(node, "_saved_dim", 0))
    if not shapes or not shapes[0]:
        return None
    place = dim % len(shapes[0])
    size = sum(shape[place] for shape in shapes)
    if size % n:
        return None
    ends = [tuple(place.shape) for place in node._input_metadata]
    return place, tuple(s[place] / size for s in (*shapes, *ends)), _start(node) / max(size, 1)


def _start(node: Any) -> int:
    return _signed(getattr(node, "_saved_start", 0) or 0)


def _signed(number: int) -> int:
    """Autograd saves negative numbers without their sign."""
    return number - 2**64 if number >= 2**63 else number


def _shape(node: Node) -> tuple[int, ...]:
    """That of the first input."""
    child, output = node.next_functions[0] if node.next_functions else (None, 0)
    return () if child is None else tuple(child._input_metadata[output].shape)
