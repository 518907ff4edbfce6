"""The losses as a user gives them: a tensor, a sequence of scalars, or a mapping from names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Losses: TypeAlias = "Tensor | Sequence[Tensor] | Mapping[str, Tensor]"
"""A tensor of any shape, a sequence of scalars, or a mapping from name to scalar."""


@dataclass(frozen=True)
class Objectives:
    """Named losses: either one tensor of any shape, or scalars."""

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    is_one_tensor: bool = False
    """Whether they were given as one tensor, whose shape its values keep."""

    @property
    def m(self) -> int:
        """How many there are."""
        return len(self.names)

    def values(self) -> Float[Tensor, "..."]:
        """Their values, detached: of the shape of the one tensor that was given, else ``[m]``."""
        if self.is_one_tensor:
            return self.tensors[0].detach()
        return torch.stack([tensor.detach().reshape(()) for tensor in self.tensors])

    def as_engine_input(self) -> Tensor | list[Tensor]:
        """The losses in the form that engines take."""
        return self.tensors[0] if len(self.tensors) == 1 else list(self.tensors)


def objectives(losses: Losses, argument: str = "losses") -> Objectives:
    """Reads what the user gave.

    :param losses: A tensor of any shape, a sequence of scalars, or a mapping from name to scalar.
    :param argument: What to call it in messages.
    :raises ValueError: if it is empty, or an entry is no scalar.
    :raises TypeError: if an entry is no tensor.
    """
    if isinstance(losses, Tensor):
        if not losses.numel():
            raise ValueError(
                f"{argument} is empty, of shape {list(losses.shape)}: at least one loss is needed; "
                f"leave the step out where a batch has no instance"
            )
        return Objectives(_indices(tuple(losses.shape)), (losses,), is_one_tensor=True)
    if isinstance(losses, Mapping):
        names, tensors = tuple(str(name) for name in losses), tuple(losses.values())
    else:
        _check_sequence(losses, argument)
        tensors = tuple(losses)
        names = tuple(str(i) for i in range(len(tensors)))
    if not tensors:
        raise ValueError(f"{argument} is empty: at least one loss is needed")
    for name, tensor in zip(names, tensors, strict=True):
        if not isinstance(tensor, Tensor):
            raise TypeError(_no_tensor(f"{argument}[{name!r}]", name, tensor))
        if tensor.numel() != 1:
            raise ValueError(
                f"{argument}[{name!r}] has shape {list(tensor.shape)}, but each entry of a "
                f"sequence or a mapping must be a scalar; give one tensor to have one objective "
                f"per entry"
            )
    _check_each_once(names, tensors, argument)
    return Objectives(names, tensors)


def _check_sequence(losses: object, argument: str) -> None:
    """Refuses what is neither a tensor nor a mapping, and no sequence either.

    :raises TypeError: with what was perhaps meant.
    """
    if isinstance(losses, int | float):
        hint = "a plain number has no gradient: give the tensor itself, without .item()"
    elif losses is None:
        hint = "the function that was to compute them may lack its return"
    elif isinstance(losses, set | frozenset):
        hint = "a set has no order: give a list, or a mapping from names"
    elif not isinstance(losses, Iterable | str) and callable(losses):
        hint = "call it first, as in backward(losses_of(batch))"
    elif isinstance(losses, Iterable) and not isinstance(losses, str | bytes):
        return
    else:
        hint = "as in backward([loss_1, loss_2])"
    raise TypeError(
        f"{argument} must be a tensor, a sequence of scalars, or a mapping from names to scalars, "
        f"not {type(losses).__name__}: {hint}"
    )


def _check_each_once(names: tuple[str, ...], tensors: tuple[Tensor, ...], argument: str) -> None:
    """Refuses one tensor under two names.

    :raises ValueError: naming both.
    """
    known: dict[int, str] = {}
    for name, tensor in zip(names, tensors, strict=True):
        first = known.setdefault(id(tensor), name)
        if first != name:
            raise ValueError(
                f"{argument}[{first!r}] and {argument}[{name!r}] are one and the same tensor: give "
                f"each objective once"
            )


def _no_tensor(which: str, name: str, value: object) -> str:
    """What is wrong with an entry that is no tensor, and what was perhaps meant."""
    if value is None or isinstance(value, int | float):
        return (
            f"{which} is {value!r}, which has no gradient: leave this objective out of the step if "
            f"it has no labels in this batch"
        )
    if isinstance(value, Mapping):
        inner = ", ".join(f"{f'{name}/{key}'!r}: …" for key in list(value)[:2])
        return (
            f"{which} is a mapping, but objectives are not nested: give each its own entry, as in "
            f"{{{inner}}}"
        )
    if isinstance(value, list | tuple):
        return (
            f"{which} is a {type(value).__name__}, but objectives are not nested: give each its "
            f"own entry, or their sum"
        )
    return f"{which} must be a tensor, not {type(value).__name__}"


def in_order(given: Objectives, names: tuple[str, ...], argument: str) -> Objectives:
    """The same objectives in the order of ``names``.

    :param given: Those of a mapping.
    :param names: Those of the losses that the step was for.
    :param argument: What to call ``given`` in messages.
    :raises ValueError: if it has other names.
    """
    if given.names == names:
        return given
    if set(given.names) != set(names):
        raise ValueError(
            f"{argument} has the objectives {', '.join(map(repr, given.names))}, but losses has "
            f"{', '.join(map(repr, names))}"
        )
    by_name = dict(zip(given.names, given.tensors, strict=True))
    return Objectives(names, tuple(by_name[name] for name in names))


def finite_ones(given: Objectives) -> Objectives:
    """The objectives whose loss is finite, of those that have a tensor each; all if none is.

    :param given: Named losses; entries of one tensor have one graph, and stay together.
    """
    if len(given.tensors) == 1:
        return given
    finite = torch.isfinite(given.values()).tolist()
    if all(finite) or not any(finite):
        return given
    kept = [i for i, is_finite in enumerate(finite) if is_finite]
    return Objectives(tuple(given.names[i] for i in kept), tuple(given.tensors[i] for i in kept))


def check_differentiable(given: Objectives, argument: str = "losses") -> None:
    """Refuses losses without a graph, and complex ones.

    :raises ValueError: naming the loss.
    """
    for position, tensor in enumerate(given.tensors):
        if tensor.requires_grad and not tensor.is_complex():
            continue
        which = f"{argument}[{given.names[position]!r}]" if len(given.tensors) > 1 else argument
        if tensor.is_complex():
            raise ValueError(
                f"{which} is complex, which has no minimum: give its real part or its modulus"
            )
        constant = (
            "; if it has no labels in this batch, leave it out of the step"
            if len(given.tensors) > 1
            else ""
        )
        raise ValueError(
            f"{which} does not require gradients: it was computed under torch.no_grad(), "
            f"detached, or from nothing that requires them{constant}"
        )


@lru_cache(maxsize=64)
def _indices(shape: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(",".join(map(str, index)) for index in product(*map(range, shape or (1,))))
