"""What a method makes of a linearization: weights, and what is to be added to each ``.grad``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final, TypeGuard

from jaxtyping import Float
from torch import Tensor

from jdframework.autograd.rollback import CallUndone
from jdframework.errors import UnsupportedModelError
from jdframework.linearization import (
    Demand,
    Gradients,
    JacobianRows,
    Linearization,
    OfRows,
)
from jdframework.linearization.finite import UNCHECKED, Finiteness
from jdframework.protocols import TreatsGroups


@dataclass(frozen=True)
class Update:
    """Gradients for tensors, none of which is written yet, and how they came about."""

    tensors: Sequence[Tensor]
    gradients: Sequence[Tensor | None]
    weights: Float[Tensor, " m"] | None
    """None for a method that is no weighted sum."""
    gramian: Float[Tensor, "m m"] | None
    """None where none was computed."""

    def and_of(self, tensors: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Update:
        """This, and gradients for other tensors."""
        if not tensors:
            return self
        mine = [*self.tensors, *tensors], [*self.gradients, *gradients]
        return replace(self, tensors=mine[0], gradients=mine[1])

    def without(self, tensors: Sequence[Tensor]) -> Gradients:
        """The gradients that are for others than these tensors."""
        excluded = {id(tensor) for tensor in tensors}
        pairs = zip(self.tensors, self.gradients, strict=True)
        kept = [pair for pair in pairs if id(pair[0]) not in excluded]
        return [tensor for tensor, _ in kept], [gradient for _, gradient in kept]


def update(
    lin: Linearization,
    method: Any,
    losses: Float[Tensor, " m"] | None = None,
    *,
    gramians: Sequence[Tensor | None] | None = None,
    finiteness: Finiteness = UNCHECKED,
) -> Update:
    """Asks a method for weights, or directions, and the linearization for what they come to.

    :param lin: Of the losses, with the method's groups.
    :param method: A weighting or an aggregator.
    :param losses: Their values, for the methods that need them.
    :param gramians: What ``lin.gramians()`` has given, if it was asked already.
    :param finiteness: Looks at what the method gives.
    :raises UnsupportedModelError: if the losses depend on leaves that the method has no weight for.
    :raises ValueError: if the losses depend on no input.
    """
    found = lin.gramians() if gramians is None else gramians
    if all(gramian is None for gramian in found):
        raise ValueError(NOTHING_REACHED)
    members = members_of(method, len(lin.inputs))
    if lin.outside and (treats_groups(method) or members[0].kind != "weighting"):
        raise UnsupportedModelError(_without_weights(method, lin.outside))
    tensors: list[Tensor] = []
    gradients: list[Tensor | None] = []
    weights: list[Tensor | None] = [None] * len(members)
    for group, (member, gramian) in enumerate(zip(members, found, strict=True)):
        if gramian is None:
            continue
        call = MethodOfRows(member, losses, finiteness)
        if member.kind != "weighting":
            column_wise = getattr(member, "column_wise", False)
            targets, directions = lin.direct(call, group, column_wise=column_wise)
            tensors, gradients = [*tensors, *targets], [*gradients, *directions]
        elif "jacobian" in member.needs:
            weights[group] = lin.weigh(call, group)
        else:
            weights[group] = call.of_gramian(gramian)
    if any(own is not None for own in weights):
        targets, directions = lin.vjp(weights)
        tensors, gradients = [*tensors, *targets], [*gradients, *directions]
    of_all = None if treats_groups(method) else weights[0]
    return Update(tensors, gradients, of_all, lin.recorded(found))


class MethodOfRows(OfRows):
    """A method, as a function of rows and of what it needs beside them.

    :param method: A weighting or an aggregator.
    :param losses: The objectives' values, if they are known.
    :param finiteness: Looks at what the method gives.
    """

    def __init__(self, method: Any, losses: Tensor | None, finiteness: Finiteness) -> None:
        self._method, self._finiteness = method, finiteness
        self._extra = extra_for(method, losses)

    def __call__(self, rows: Float[Tensor, "m n"]) -> Tensor:
        """See :class:`~jdframework.linearization.OfRows`."""
        extra = {name: value.to(rows.device) for name, value in self._extra.items()}
        answer: Tensor = self._method(rows, **extra)
        self._finiteness.of_answer(self._method, answer)
        return answer

    def of_gramian(self, gramian: Float[Tensor, "m m"]) -> Float[Tensor, " m"]:
        """The weights that it gives of a Gramian, or of what takes its place."""
        weights: Tensor = self._method(gramian, **self._extra)
        self._finiteness.of_answer(self._method, weights)
        return weights

    def repeatable(self) -> AbstractContextManager[object]:
        """See :class:`~jdframework.linearization.OfRows`."""
        return CallUndone(self._method)


def directions_of(
    method: Any,
    blocks: Sequence[Float[Tensor, "m *shape"]],
    losses: Float[Tensor, " m"] | None = None,
) -> list[Tensor]:
    """What a weighting or an aggregator gives of a Jacobian, block by block.

    :param method: A weighting or an aggregator.
    :param blocks: One per tensor, ``[m, *shape]``.
    :param losses: The objectives' values, for the methods that need them.
    """
    like = [block[0] for block in blocks]
    found = update(JacobianRows(like, blocks, groups_of(method, len(blocks))), method, losses)
    by_tensor = {id(t): g for t, g in zip(found.tensors, found.gradients, strict=True)}
    return [gradient for t in like if (gradient := by_tensor[id(t)]) is not None]


def treats_groups(method: Any) -> TypeGuard[TreatsGroups]:
    """Whether the method treats groups of parameters apart.

    The class is asked: asking a module for what it does not have takes its time.
    """
    return hasattr(type(method), "groups") and isinstance(method, TreatsGroups)


def groups_of(method: Any, inputs: int) -> list[Sequence[int]]:
    """Which inputs of a linearization the method treats together."""
    if treats_groups(method):
        return [positions for _, positions in method.groups(inputs)]
    return [range(inputs)]


def members_of(method: Any, inputs: int) -> list[Any]:
    """The method of each group; an aggregator that was made of a weighting is taken for that."""
    treats = treats_groups(method)
    found = [member for member, _ in method.groups(inputs)] if treats else [method]
    return [getattr(member, "weighting", member) for member in found]


def need_of(method: Any, inputs: int) -> Demand:
    """What a method will ask of a linearization.

    :param method: A weighting or an aggregator.
    :param inputs: How many inputs the linearization has.
    """
    if "cross-gramian" in method.needs:
        return "cross-gramian"
    needs = {_need_of(member) for member in members_of(method, inputs)}
    return next(need for need in ("rows", "columns", "gramian") if need in needs)


def _need_of(member: Any) -> Demand:
    if member.kind == "weighting":
        return "rows" if "jacobian" in member.needs else "gramian"
    return "columns" if getattr(member, "column_wise", False) else "rows"


def extra_for(method: Any, losses: Tensor | None) -> dict[str, Tensor]:
    """What the method needs beside its statistic, by name.

    :param method: A weighting or an aggregator.
    :param losses: The objectives' values, if they are known.
    """
    if losses is None or "losses" not in method.needs:
        return {}
    return {"losses": losses.flatten()}


NOTHING_REACHED: Final = (
    "the losses depend on no parameter of the engine's modules that requires gradients, or depend "
    "on none of the parameters that were given: are these the modules that computed them?"
)


def _without_weights(method: Any, outside: Sequence[Tensor]) -> str:
    shapes = ", ".join(str(list(tensor.shape)) for tensor in outside[:3])
    return (
        f"the losses also depend on {len(outside)} tensors outside of the given modules "
        f"(shapes {shapes}), for which a method without weights has no update, and "
        f"{method.name!r} has no weights: give features=…, add their module to the Descent, or, if "
        f"they are data that a loss is differentiated by, call requires_grad_(False) on them "
        f"before backward"
    )
