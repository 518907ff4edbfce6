"""What a forward pass leaves behind: each layer's inputs, attached to the autograd graph itself.

The record of a call lives in the metadata of the graph node that made the call's output. It is
found again by walking the graph of the losses, it is freed with the graph, and passes without a
backward pass leave nothing behind.
"""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.utils import _pytree as pytree

_KEY: Final = "jdframework.autogram"
_USED_UP: Final = "jdframework.used_up"
"""Marks the operations of a graph whose backward pass has been taken, and is not to be again."""
_SCRIPTING: Final = "__prepare_scriptable__"
"""What torch.jit.script calls on every module that it is about to compile."""
_identities: Final = itertools.count()


@dataclass(eq=False)
class Call:
    """One call of one layer."""

    layer: nn.Module
    args: tuple[Any, ...]
    """The positional arguments, their tensors detached."""
    kwargs: dict[str, Any]
    tensors: Sequence[Tensor]
    """Those among the arguments."""
    outputs: int
    """How many tensors it returned."""
    input_edges: list[GradientEdge]
    """Where the arguments that require gradients stood in the graph."""
    nested: bool
    """Whether one of its outputs was computed from another."""
    training: bool = field(init=False)
    """Whether the layer was in training mode."""
    state: dict[str, Tensor] = field(init=False)
    """The parameters and buffers that the call used."""

    def __post_init__(self) -> None:
        self.training = self.layer.training
        self.state = _tensors_of(self.layer)
        self._argument_versions = _versions(self.tensors)
        self._state_versions = _versions(self.state.values())

    @property
    def arguments_changed(self) -> bool:
        """Whether an argument was changed in place since the call."""
        return self._argument_versions != _versions(self.tensors)

    @property
    def state_changed(self) -> bool:
        """Whether the layer has, since the call, got other parameters or buffers or values."""
        now = _tensors_of(self.layer)
        same = now.keys() == self.state.keys() and all(now[k] is t for k, t in self.state.items())
        return not same or self._state_versions != _versions(now.values())

    @property
    def parameters_replaced(self) -> bool:
        """Whether the call used other parameters than those that the layer has now."""
        now = _tensors_of(self.layer)
        return any(
            tensor is not now.get(name)
            for name, tensor in self.state.items()
            if tensor.requires_grad
        ) or len(now) != len(self.state)


class Recorder:
    """Attaches records to the graph while it lives.

    :param layers: The modules whose calls are recorded.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self._identity = next(_identities)
        self._after = _After(self)
        self._handles: list[Any] = []
        self._unwatched: list[weakref.ref[nn.Module]] = []
        for layer in layers:
            self._watch(layer)

    def _watch(self, layer: nn.Module) -> None:
        # Ahead of the user's own hooks, which may change the output.
        handle = layer.register_forward_hook(self._after, with_kwargs=True, prepend=True)
        self._handles.append((handle, weakref.ref(layer)))
        vars(layer)[_SCRIPTING] = _BeforeScripting(layer)

    def leave(self, layer: nn.Module) -> None:
        """Remembers a layer that the hook has been taken off, until :meth:`come_back`.

        :param layer: One that torch.jit.script is about to compile.
        """
        self._unwatched.append(weakref.ref(layer))

    def come_back(self) -> None:
        """Puts the hooks back on layers that have been compiled meanwhile."""
        while self._unwatched:
            layer = self._unwatched.pop()()
            if layer is not None:
                self._watch(layer)

    def record(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        """Remembers one call, if something can be differentiated through it."""
        if not torch.is_grad_enabled() or _is_inert(layer):
            return
        outputs = _tensors(output)
        given = _tensors((args, dict(kwargs)))
        if any(_is_transformed(tensor) for tensor in (*outputs, *given)):
            return
        detached, named = _detached(args, kwargs)
        edges = [get_gradient_edge(tensor) for tensor in given if tensor.requires_grad]
        made = {i: get_gradient_edge(t) for i, t in enumerate(outputs) if t.requires_grad}
        call = Call(
            layer,
            detached,
            named,
            _tensors((detached, named)),
            len(outputs),
            edges,
            len(made) > 1 and _is_nested(edges, made.values()),
        )
        for position, edge in made.items():
            places = _metadata(edge.node).setdefault(_KEY, {})
            places[self._identity, edge.output_nr] = call, position

    def found_at(self, node: Node, output: int) -> tuple[Call, int] | None:
        """The call that made this output of ``node``, and which of its outputs it is."""
        found: tuple[Call, int] | None = _metadata(node).get(_KEY, {}).get((self._identity, output))
        return found

    def forget(self, nodes: Iterable[Node]) -> None:
        """Frees the records of a graph that has been used up, and marks it."""
        for node in nodes:
            metadata = _metadata(node)
            if node.next_functions:  # leaves belong to other graphs, too
                metadata[_USED_UP] = True
            records = metadata.get(_KEY)
            if records:
                for place in [place for place in records if place[0] == self._identity]:
                    del records[place]

    def check_unused(self, node: Node) -> None:
        """Refuses an operation through which a backward pass has been taken that kept no graph.

        Torch does, too, but it has freed only what its pass went through: not what the engine has
        kept for a check, nor what layers' rules have spared it.

        :param node: Any.
        :raises RuntimeError: if it has saved tensors, as in torch.
        """
        if _USED_UP in _metadata(node) and _saves_tensors(node):
            raise RuntimeError(
                f"trying to go backward a second time through a graph ({node.name()}) that the "
                f"first backward call has freed: write backward(losses, retain_graph=True) there, "
                f"or compute the losses anew"
            )

    def close(self, modules: Iterable[nn.Module] = ()) -> None:
        """Takes the hooks off the layers.

        :param modules: Where a copy finds them: it has no handles.
        """
        for handle, layer in self._handles:
            handle.remove()
            _forget_scripting(layer())
        self._handles, self._unwatched = [], []
        for layer in (layer for module in modules for layer in module.modules()):
            for hook in _hooks_on(layer):
                if hook.recorder is self:
                    hook.remove_from(layer)

    def __reduce__(self) -> tuple[type[Recorder], tuple[tuple[nn.Module, ...]]]:
        """A copy records for the hooks that are copied with it, and has seen nothing yet."""
        return type(self), ((),)


def _saves_tensors(node: Node) -> bool:
    """Whether a backward pass that keeps no graph frees something of the operation."""
    return bool(getattr(node, "saved_tensors", ())) or any(
        name.startswith("_raw_saved") for name in dir(node)
    )


def _metadata(node: Node) -> dict[Any, Any]:
    found: dict[Any, Any] = node.metadata  # type: ignore[assignment]  # torch calls it a method
    return found


def _detached(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments without their graph, which would hold itself alive."""
    if not kwargs and _are_tensors(args):
        return tuple(argument.detach() for argument in args), {}
    found: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(
        Tensor, Tensor.detach, (args, dict(kwargs))
    )
    return found


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if type(tree) is tuple and tree[-1:] == ({},) and _are_tensors(tree[0]):
        return list(tree[0])
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _are_tensors(things: Any) -> bool:
    return type(things) is tuple and all(isinstance(thing, Tensor) for thing in things)


def _is_inert(layer: nn.Module) -> bool:
    return not any(tensor.requires_grad for tensor in _tensors_of(layer).values())


def _is_transformed(tensor: Tensor) -> bool:
    """Whether ``torch.func`` has wrapped it, whose graph is not that of the losses."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def _tensors_of(layer: nn.Module) -> dict[str, Tensor]:
    """The layer's parameters and buffers by name."""
    if layer._modules:
        return dict(itertools.chain(layer.named_parameters(), layer.named_buffers()))
    own = itertools.chain(layer._parameters.items(), layer._buffers.items())
    return {name: tensor for name, tensor in own if tensor is not None}


def _versions(tensors: Iterable[Tensor]) -> list[int]:
    """How often each tensor was changed in place."""
    return [tensor._version for tensor in tensors]


def _is_nested(given: Iterable[GradientEdge], made: Iterable[GradientEdge]) -> bool:
    """Whether, in the part of the graph that a call made, one output was computed from another.

    :param given: Where its arguments stand.
    :param made: Where its outputs stand.
    """
    ends = {(edge.node, edge.output_nr) for edge in given}
    places = {(edge.node, edge.output_nr) for edge in made}
    pending = [node for node, output in places if (node, output) not in ends]
    seen: set[Node] = set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        for child in node.next_functions:
            if child[0] is not None and child not in ends:
                if child in places:
                    return True
                pending.append(child[0])
    return False


class _Hook:
    """A hook that keeps no engine alive, and is copied with its layer.

    Where the engine is copied, too, the copy's hooks record for the copy's engine; otherwise they
    take themselves off when they are first called.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = None if recorder is None else weakref.ref(recorder)

    @property
    def recorder(self) -> Recorder | None:
        """The recorder, if it lives and something can be recorded."""
        if torch.compiler.is_compiling() or self._recorder is None:
            return None
        return self._recorder()

    def remove_from(self, layer: nn.Module) -> None:
        """Takes it off a layer; not while torch.compile traces."""
        if torch.compiler.is_compiling():
            return
        hooks: dict[int, Any] = layer._forward_hooks
        for number in [number for number, hook in hooks.items() if hook is self]:
            del hooks[number]
            layer._forward_hooks_with_kwargs.pop(number, None)
        _forget_scripting(layer)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return type(self)(copy.deepcopy(self.recorder, memo))

    def __reduce__(self) -> tuple[type[_Hook], tuple[Recorder | None]]:
        return type(self), (self.recorder,)

    @property
    def __name__(self) -> str:
        """What ``torch.jit.script`` asks for, before it tries to compile the hook.

        :raises AttributeError: always, with what to do.
        """
        raise AttributeError(
            "torch.jit cannot compile a hook of autogram: compile by torch.jit.script, which "
            "takes it off first, or call close() on the Descent or engine"
        )


class _After(_Hook):
    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        recorder = self.recorder
        if recorder is not None:
            recorder.record(layer, args, kwargs, output)
        else:
            self.remove_from(layer)


class _BeforeScripting:
    """Takes all hooks off a layer before torch.jit.script compiles it, which knows no such hooks.

    The next step puts them back; a forward pass that has run until then is differentiated by its
    operations alone.

    :param layer: The layer, which this does not keep alive.
    """

    def __init__(self, layer: nn.Module | None) -> None:
        self._layer = None if layer is None else weakref.ref(layer)

    @property
    def layer(self) -> nn.Module | None:
        """The layer, if it lives."""
        return None if self._layer is None else self._layer()

    def __call__(self) -> nn.Module | None:
        """Gives the layer, as torch.jit.script expects."""
        layer = self.layer
        if layer is None:
            return None
        for hook in _hooks_on(layer):
            recorder = hook.recorder
            hook.remove_from(layer)
            if recorder is not None:
                recorder.leave(layer)
        return layer

    def __deepcopy__(self, memo: dict[int, Any]) -> _BeforeScripting:
        return type(self)(copy.deepcopy(self.layer, memo))

    def __reduce__(self) -> tuple[type[_BeforeScripting], tuple[nn.Module | None]]:
        return type(self), (self.layer,)


def _forget_scripting(layer: nn.Module | None) -> None:
    """Leaves nothing on a layer that has no hooks any more."""
    if layer is not None and not _hooks_on(layer):
        vars(layer).pop(_SCRIPTING, None)


def _hooks_on(layer: nn.Module) -> list[_Hook]:
    hooks: list[Any] = list(layer._forward_hooks.values())
    return [hook for hook in hooks if isinstance(hook, _Hook)]
