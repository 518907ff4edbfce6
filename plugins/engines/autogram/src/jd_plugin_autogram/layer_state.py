"""A snapshot of everything that a layer's forward pass may read or change besides its arguments."""

from __future__ import annotations

import itertools
import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final

import torch
from torch import Tensor, nn

_OWN: Final = frozenset(vars(nn.Module()))
"""The attributes that every module has."""
_VALUES: Final = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_FIXED: Final = (type, ModuleType, FunctionType, MethodType, BuiltinFunctionType)
_LIMIT: Final = 2000
"""How many objects a snapshot looks at; past them, only the layer's output tells of a change."""


def tensors_of(layer: nn.Module) -> dict[str, Tensor]:
    """The layer's parameters and buffers by name.

    :param layer: Any.
    """
    if layer._modules:
        return dict(itertools.chain(layer.named_parameters(), layer.named_buffers()))
    own = itertools.chain(layer._parameters.items(), layer._buffers.items())
    return {name: tensor for name, tensor in own if tensor is not None}


def versions(tensors: Iterable[Tensor]) -> list[int]:
    """How often each tensor was changed in place.

    :param tensors: Any.
    """
    return [tensor._version for tensor in tensors]


@dataclass(frozen=True)
class Snapshot:
    """What a layer held at one moment: which objects, and what was in them."""

    values: list[Any]
    """Versions, lengths, numbers, and the identities of objects."""
    held: list[Any]
    """The objects themselves, as an identity may be given to another one once they are gone."""

    def is_same_as(self, other: Snapshot) -> bool:
        """Whether nothing was replaced, changed in place, or grew."""
        return self.values == other.values


def snapshot(layer: nn.Module) -> Snapshot:
    """What a layer holds now: parameters, buffers, and every other attribute.

    :param layer: Any.
    """
    look = _StateWalk()
    for part in layer.modules():
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            look.at(name)
            look.at(tensor)
        for name, value in vars(part).items():
            if name not in _OWN or name == "training":
                look.at(name)
                look.at(value)
    return Snapshot(look.values, look.held)


def random_states() -> list[Any]:
    """The states of the random generators that every layer can draw from."""
    states: list[Any] = [torch.get_rng_state(), random.getstate()]
    if torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        _, keys, position, *_ = numpy.get_state()
        states.append((keys.tobytes(), position))
    return states


def are_same(first: Iterable[Any], second: Iterable[Any]) -> bool:
    """Whether no random generator was drawn from between the two.

    :param first: What :func:`random_states` gave.
    :param second: What it gave later.
    """
    return all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b
        for a, b in itertools.zip_longest(first, second)
    )


class _StateWalk:
    """Walks through objects, and notes everything by which a change of them shows."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.held: list[Any] = []
        self._seen: set[int] = set()

    def at(self, thing: Any) -> None:
        if isinstance(thing, _VALUES):
            self.values.append(thing if thing == thing else "nan")  # noqa: PLR0124
            return
        self.values.append((type(thing), id(thing)))
        if isinstance(thing, _FIXED) or id(thing) in self._seen or len(self._seen) > _LIMIT:
            return
        self._seen.add(id(thing))
        self.held.append(thing)
        if isinstance(thing, Tensor):
            self.values.append(thing._version)
        elif isinstance(thing, torch.Generator):
            self.values.append(bytes(thing.get_state().tolist()))
        elif isinstance(thing, random.Random):
            self.values.append(thing.getstate())
        elif type(thing).__module__.startswith("numpy"):
            self.values.append(_of_numpy(thing))
        elif isinstance(thing, Iterator):
            self.values.append(object())  # where it stands cannot be seen: taken for changed
        elif isinstance(thing, Mapping):
            self._at_each(itertools.chain.from_iterable(thing.items()), len(thing))
        elif isinstance(thing, list | tuple | set | frozenset | deque):
            self._at_each(thing, len(thing))
        else:
            self._at_each(vars(thing).values() if hasattr(thing, "__dict__") else (), 0)

    def _at_each(self, things: Iterable[Any], count: int) -> None:
        self.values.append(count)
        for thing in itertools.islice(things, _LIMIT):
            self.at(thing)


def _of_numpy(thing: Any) -> Any:
    """The contents of an array, or the state of a generator."""
    if hasattr(thing, "tobytes"):
        return thing.tobytes()
    state = getattr(getattr(thing, "bit_generator", thing), "state", None)
    return repr(state if state is not None else getattr(thing, "get_state", lambda: None)())
