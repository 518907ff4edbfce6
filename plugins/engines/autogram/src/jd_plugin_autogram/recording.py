"""What a forward pass leaves behind: each layer's inputs, attached to the autograd graph itself.

The record of a call lives in the metadata of the graph node that made the call's output. It is
found again by walking the graph of the losses, it is freed with the graph, and passes without a
backward pass leave nothing behind.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.utils import _pytree as pytree

_KEY: Final = "jdframework.autogram"
_identities: Final = itertools.count()


@dataclass(eq=False)
class Call:
    """One call of one layer."""

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: int
    """How many tensors it returned."""
    training: bool
    """Whether the layer was in training mode."""
    tensors: list[Tensor] = field(init=False)
    """The tensors among the arguments."""
    input_edges: list[GradientEdge] = field(init=False)
    """Where those that require gradients stood in the graph when the layer was called."""
    _versions: list[int] = field(init=False)

    def __post_init__(self) -> None:
        leaves = pytree.tree_leaves((self.args, dict(self.kwargs)))
        self.tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self.input_edges = [get_gradient_edge(t) for t in self.tensors if t.requires_grad]
        self._versions = [tensor._version for tensor in self.tensors]

    @property
    def changed(self) -> bool:
        """Whether an argument was changed in place since the call."""
        return self._versions != [tensor._version for tensor in self.tensors]


class Recorder:
    """Attaches records to the graph while it lives.

    :param layers: The modules whose calls are recorded.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self._identity = next(_identities)
        hook = _Hook(self)
        self._handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer in layers]

    def record(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        """Remembers one call, if something can be differentiated through it."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return
        outputs = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
        call = Call(layer, args, kwargs, len(outputs), layer.training)
        for position, tensor in enumerate(outputs):
            if tensor.requires_grad:
                edge = get_gradient_edge(tensor)
                records = _metadata(edge.node).setdefault(_KEY, {})
                records[self._identity, edge.output_nr] = (call, position)

    def found_at(self, node: Node, output: int) -> tuple[Call, int] | None:
        """The call that made this output of ``node``, and which of its outputs it is."""
        found: tuple[Call, int] | None = _metadata(node).get(_KEY, {}).get((self._identity, output))
        return found

    def forget(self, nodes: Iterable[Node]) -> None:
        """Frees the records of a graph that has been used up."""
        for node in nodes:
            records = _metadata(node).get(_KEY)
            if records:
                for place in [place for place in records if place[0] == self._identity]:
                    del records[place]

    def close(self) -> None:
        """Takes the hooks off the layers."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _metadata(node: Node) -> dict[Any, Any]:
    found: dict[Any, Any] = node.metadata  # type: ignore[assignment]  # torch calls it a method
    return found


class _Hook:
    """A forward hook that keeps no engine alive; that of a copied model does nothing."""

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = None if recorder is None else weakref.ref(recorder)

    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        recorder = None if self._recorder is None else self._recorder()
        if recorder is not None:
            recorder.record(layer, args, kwargs, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return _Hook(None)

    def __reduce__(self) -> tuple[type[_Hook], tuple[None]]:
        return _Hook, (None,)
