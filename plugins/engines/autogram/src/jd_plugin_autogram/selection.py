"""The operation that has picked some of a batch's instances, as ``losses[mask]`` does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from torch.autograd.graph import Node

_PICKING: Final = ("Index", "MaskedSelect", "Gather", "Take", "Topk", "Sort", "Slice", "Narrow")
"""How the names of operations begin that take some entries."""


def selection(nodes: Iterable[Node], n: int) -> Node | None:
    """The first operation that leaves ``n`` of more instances, along the first dimension.

    :param nodes: Those of the graph, from the losses on.
    :param n: How many instances the losses have.
    :return: None if there is no such operation.
    """
    return next((node for node in nodes if _picks(node, n)), None)


def _picks(node: Node, n: int) -> bool:
    child, output = node.next_functions[0] if node.next_functions else (None, 0)
    if child is None:
        return False
    before = tuple(child._input_metadata[output].shape)
    after = tuple(node._input_metadata[0].shape)
    if not node.name().startswith(_PICKING) or len(after) == 0:
        return False
    return len(before) > 0 and after[0] == n < before[0]
