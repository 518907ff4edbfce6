"""Asks a method for its weights or its direction, and makes the update of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from jaxtyping import Float
from torch import Tensor

from jdframework.autograd.rollback import CallRollback
from jdframework.errors import UnsupportedModelError
from jdframework.linearization.blocks import Gradients, joined
from jdframework.linearization.features import Cut
from jdframework.linearization.heads import WithHeads, heads_alone
from jdframework.linearization.protocol import Demand, Linearization, RowFunction
from jdframework.linearization.rows import JacobianRows
from jdframework.protocols import Engine, TreatsGroups


@dataclass(frozen=True)
class Combination:
    """What a method answered, for each of its groups of parameters."""

    method: Any
    """A weighting, an aggregator or a scalarizer."""
    members: Sequence[Any]
    """The method of each group."""
    weights: Sequence[Float[Tensor, " m"] | None]
    """One each; None for a group that no objective depends on, and of a method without weights."""
    directions: Gradients
    """The tensors of the groups whose method has no weights, and the direction for each."""
    gramian: Float[Tensor, "m m"] | None
    """That of all groups together; None where none was computed."""

    @property
    def of_all(self) -> Float[Tensor, " m"] | None:
        """One weight for each objective; None where each group has its own."""
        return None if treats_groups(self.method) else self.weights[0]


def combine(
    lin: Linearization,
    gramians: Sequence[Float[Tensor, "m m"] | None],
    method: Any,
    losses: Float[Tensor, " m"] | None = None,
) -> Combination:
    """Asks a method for its weights, or for its direction where it has none.

    :param lin: Of the losses, with the method's groups.
    :param gramians: What ``lin.gramians()`` gave.
    :param method: A weighting or an aggregator.
    :param losses: Their values, for the methods that need them.
    :raises UnsupportedModelError: if the losses depend on leaves that the method has no weight for.
    :raises ValueError: if the losses depend on no input, unless there is none, and only heads.
    """
    if not lin.inputs and lin.unweighted[0]:
        return Combination(method, [method], [None], ([], []), None)
    if all(gramian is None for gramian in gramians):
        raise ValueError(NOTHING_REACHED)
    members = members_of(method, len(lin.inputs))
    if lin.outside and (treats_groups(method) or members[0].kind != "weighting"):
        raise UnsupportedModelError(_without_weights(method, lin.outside))
    weights: list[Tensor | None] = [None] * len(members)
    tensors: list[Tensor] = []
    directions: list[Tensor | None] = []
    for group, (member, gramian) in enumerate(zip(members, gramians, strict=True)):
        if gramian is None:
            continue
        call = MethodCall(member, losses)
        if member.kind != "weighting":
            column_wise = getattr(member, "column_wise", False)
            targets, found = lin.direct(call, group, column_wise=column_wise)
            tensors, directions = [*tensors, *targets], [*directions, *found]
            weights[group] = call.weights
        elif "jacobian" in member.needs:
            weights[group] = lin.weigh(call, group)
        else:
            weights[group] = call(gramian)
    directed = (tensors, directions)
    return Combination(method, members, weights, directed, lin.recorded(gramians))


def pullback(lin: Linearization, combination: Combination) -> Gradients:
    """The update: ``Jᵀw`` where there are weights, the directions, and what needs neither.

    :param lin: What the method was asked about.
    :param combination: What it answered.
    """
    pairs = zip(combination.members, combination.weights, strict=True)
    weights = [w if member.kind == "weighting" else None for member, w in pairs]
    parts = [combination.directions, lin.unweighted]
    if any(own is not None for own in weights):
        parts.insert(0, lin.vjp(weights))
    return joined(*parts)


def update(
    lin: Linearization, method: Any, losses: Float[Tensor, " m"] | None = None
) -> tuple[Float[Tensor, " m"] | None, Gradients]:
    """The weights and the update, without the checks of a step.

    :param lin: Of the losses, with the method's groups.
    :param method: A weighting or an aggregator.
    :param losses: Their values, for the methods that need them.
    """
    made = combine(lin, lin.gramians(), method, losses)
    return made.of_all, pullback(lin, made)


class MethodCall(RowFunction):
    """A call of a method with what it needs beside its statistic.

    :param method: A weighting or an aggregator.
    :param losses: The objectives' values, if they are known.
    """

    def __init__(self, method: Any, losses: Float[Tensor, " m"] | None) -> None:
        self._method = method
        self._extra = extra_for(method, losses)
        self.weights: Float[Tensor, " m"] | None = None
        """What the weighting gave of which the aggregator is made, if it is made of one."""

    def __call__(self, statistic: Float[Tensor, "m _"]) -> Tensor:
        """What the method gives, on the device of the statistic."""
        extra = {name: value.to(statistic.device) for name, value in self._extra.items()}
        if not _is_weighted_sum(self._method):
            answer: Tensor = self._method(statistic, **extra)
            return answer
        seen = self._method.weighting.register_forward_hook(self._see)
        try:
            direction: Tensor = self._method(statistic, **extra)
        finally:
            seen.remove()
        if self.weights is not None:  # the hook saw them in the precision of the method's own work
            self.weights = self.weights.to(direction)
        return direction

    def repeatable(self) -> AbstractContextManager[object]:
        """Where the body raises, the method's state and torch's generator are as before."""
        return CallRollback(self._method)

    def _see(self, *call: Any) -> None:
        self.weights = call[-1]


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
    lin = JacobianRows(like, blocks, groups_of(method, len(blocks)))
    _, (tensors, gradients) = update(lin, method, losses)
    by_tensor = {id(t): g for t, g in zip(tensors, gradients, strict=True)}
    return [gradient for t in like if (gradient := by_tensor[id(t)]) is not None]


def linearized(
    engine: Engine,
    method: Any,
    losses: Sequence[Tensor],
    cut: Cut | None,
    retain_graph: bool,
) -> Linearization:
    """The linearization that a method needs of some losses, or of the trunk below their features.

    :param engine: What differentiates.
    :param method: A weighting or an aggregator.
    :param losses: Tensors with ``m`` entries in all.
    :param cut: What is left of them at the features, if there are any.
    :param retain_graph: Whether the graph can be used again.
    :raises UnsupportedModelError: if the method needs rows, which the engine does not have.
    :raises ValueError: if all that is shared is frozen, and not just heads are left to train.
    """
    parameters = engine.parameters
    if not parameters:
        if cut is None:
            raise ValueError(ALL_FROZEN)
        return heads_alone(cut)
    count = len(parameters) if treats_groups(method) else 0
    groups = groups_of(method, count) if count else None
    need = need_of(method, count)
    if need in ("rows", "columns") and "jacobian" not in engine.capabilities:
        raise UnsupportedModelError(_without_rows(method, engine.name, count))
    if cut is None:
        return engine.linearize(losses, groups=groups, need=need, retain_graph=retain_graph)
    trunk = engine.linearize(
        cut.outputs,
        parameters,
        cotangents=cut.starts,
        groups=groups,
        need=need,
        retain_graph=retain_graph or bool(cut.below),
    )
    return WithHeads(trunk, cut, retain_graph)


def treats_groups(method: Any) -> TypeGuard[TreatsGroups]:
    """Whether the method treats groups of parameters separately.

    The class is asked: asking a module for what it does not have takes its time.
    """
    return hasattr(type(method), "groups") and isinstance(method, TreatsGroups)


def groups_of(method: Any, inputs: int) -> list[Sequence[int]]:
    """Which inputs of a linearization the method treats together."""
    if treats_groups(method):
        return [positions for _, positions in method.groups(inputs)]
    return [range(inputs)]


def members_of(method: Any, inputs: int) -> list[Any]:
    """The method of each group; the weighting itself, where an aggregator is just its ``Jᵀw``."""
    treats = treats_groups(method)
    found = [member for member, _ in method.groups(inputs)] if treats else [method]
    return [weighting_of(member) for member in found]


def weighting_of(method: Any) -> Any:
    """The weighting that an aggregator is just the ``Jᵀw`` of; otherwise the method itself.

    An aggregator that somebody wrote, though it may be made of a weighting, is called itself, and
    so is one whose hooks want to see the Jacobian and the direction.
    """
    if _is_weighted_sum(method) and not (method._forward_hooks or method._forward_pre_hooks):
        return method.weighting
    return method


def need_of(method: Any, inputs: int) -> Demand:
    """What a method will ask of a linearization.

    :param method: A weighting or an aggregator.
    :param inputs: How many inputs the linearization has.
    """
    if "cross-gramian" in method.needs:
        return "cross-gramian"
    needs = {_need_of(member) for member in members_of(method, inputs)}
    known: Sequence[Demand] = ("rows", "columns", "gramian")
    return next(need for need in known if need in needs)


def extra_for(method: Any, losses: Tensor | None) -> dict[str, Tensor]:
    """What the method needs beside its statistic, by name.

    :param method: A weighting or an aggregator.
    :param losses: The objectives' values, if they are known.
    """
    if losses is None or "losses" not in method.needs:
        return {}
    return {"losses": losses.flatten()}


def _is_weighted_sum(method: Any) -> bool:
    """Whether it is ``bases.WeightedSum`` itself: a class that derives from it may do otherwise."""
    return bool(vars(type(method)).get("is_weighted_sum"))


def _need_of(member: Any) -> Demand:
    if member.kind == "weighting":
        return "rows" if "jacobian" in member.needs else "gramian"
    return "columns" if getattr(member, "column_wise", False) else "rows"


NOTHING_REACHED: Final = (
    "the losses depend on no parameter of the engine's modules that requires gradients: are these "
    "the modules that computed them?"
)
ALL_FROZEN: Final = (
    "no parameter of the given modules requires gradients, so that there is nothing to take "
    "weights from: give features=…, by which heads get their plain gradient while what they share "
    "is frozen, or thaw some with requires_grad_(True)"
)


def _without_rows(method: Any, engine: str, inputs: int) -> str:
    wanting = next(
        (inner for inner in members_of(method, inputs) if _need_of(inner) != "gramian"), method
    )
    what = f"{wanting.name!r} needs the Jacobian"
    if _is_weighted_sum(wanting):
        what = f"the forward hooks of the aggregator {wanting.name!r} are to see the Jacobian"
    return f"{what}, which {engine} never forms: use engine='autojac'"


def _without_weights(method: Any, outside: Sequence[Tensor]) -> str:
    shapes = ", ".join(str(list(tensor.shape)) for tensor in outside[:3])
    return (
        f"the losses also depend on {len(outside)} tensors outside of the given modules "
        f"(shapes {shapes}), for which a method without weights, as {method.name!r} is, has no "
        f"update: add their module to the Descent; if they lie past what is shared, give "
        f"features=…; or, if they are data that a loss is differentiated by, call "
        f"requires_grad_(False) on them before backward"
    )
