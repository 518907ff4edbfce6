"""Cutting the graph of several task losses at the features that the tasks share.

``as_features`` reads what a user gives, ``partition`` tells the trunk from the heads or refuses,
``cut_losses`` differentiates what lies past the features and leaves the trunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from jdframework.autograd.graph import Graph, gradients, graph_of, place_of, without
from jdframework.linearization.blocks import Gradients
from jdframework.linearization.protocol import RowFunction
from jdframework.linearization.rows import JacobianRows

Representation: TypeAlias = "Tensor | Mapping[str, Any] | Iterable[Any]"
"""A tensor, or a mapping, a sequence or another iterable of tensors or of more of these."""

_COMPILED: Final = "CompiledFunction"


class Features(tuple[Tensor, ...]):
    """The shared representation: its tensors, and what the user calls each."""

    names: tuple[str, ...]
    """Such as ``features['p3']``."""

    @cached_property
    def below(self) -> Graph:
        """What the features were computed from."""
        return graph_of(self)

    def described(self, position: int) -> str:
        """A feature by its name and shape, for messages."""
        return f"{self.names[position]} of shape {list(self[position].shape)}"

    def chosen(self, positions: Iterable[int]) -> Features:
        """The features at some positions."""
        return _named([(self.names[i], self[i]) for i in positions])


def as_features(features: Representation) -> Features:
    """Reads the shared representation as a user gives it.

    :param features: One tensor; or a mapping, a sequence or a generator of tensors, in any depth.
    :raises TypeError: if an entry is no tensor.
    :raises ValueError: if there is none, or one is given twice.

    >>> pyramid = {"p3": torch.ones(1), "others": [torch.ones(2), torch.ones(3)]}
    >>> as_features(pyramid).names
    ("features['p3']", "features['others'][0]", "features['others'][1]")
    """
    if isinstance(features, Features):
        return features
    found = _named(list(_entries(features, "features")))
    if not found:
        raise ValueError("features is empty: give the shared representation, or leave it out")
    first: dict[int, str] = {}
    for name, feature in zip(found.names, found, strict=True):
        other = first.setdefault(id(feature), name)
        if other != name:
            raise ValueError(
                f"features contains a tensor more than once: {other} and {name} are the same"
            )
    return found


@dataclass(frozen=True)
class Partition:
    """The leaves that some losses depend on, divided into trunk and heads at the features."""

    features: Features
    """Those that the graph is cut at: the others have no graph, as their modules are frozen."""
    heads: list[Tensor]
    """Leaves past the features alone, which are not shared."""
    below: list[Tensor]
    """Other leaves that the features depend on: they take part in what is shared."""
    tied: list[Tensor]
    """Leaves that are shared, or below, and that a loss reaches past the features, too."""
    nested: bool
    """Whether one of the features was computed from another, as the levels of a backbone are."""

    @property
    def separates(self) -> bool:
        """Whether the trunk's Jacobian follows from the losses' derivatives by each feature."""
        return not (self.tied or self.nested)


def partition(
    losses: Sequence[Tensor], features: Representation, shared: Sequence[Tensor]
) -> Partition:
    """Tells the trunk from the heads, where the features allow it.

    :param losses: Tensors with a graph.
    :param features: The shared representation.
    :param shared: The trunk's parameters that require gradients; none if all are frozen.
    :raises ValueError: naming a feature that plays no part in the losses, one without a graph
        though shared parameters are trained, or one that comes out of one compiled function with
        the losses, so that heads cannot be told from the trunk.
    """
    given = as_features(features)
    live = [i for i, feature in enumerate(given) if feature.requires_grad]
    cut_at = given if len(live) == len(given) else given.chosen(live)
    past = graph_of(losses, stop_at=cut_at)
    _check_parts(given, cut_at, past, shared)
    below = without(cut_at.below.leaves, shared)
    ours = {id(tensor) for tensor in (*shared, *below)}
    return Partition(
        cut_at,
        [leaf for leaf in past.leaves if id(leaf) not in ours],
        below,
        [leaf for leaf in past.leaves if id(leaf) in ours],
        _nested(cut_at),
    )


@dataclass(frozen=True)
class Cut:
    """The losses differentiated back to the features, which leaves the trunk."""

    head_params: list[Tensor]
    head_gradients: list[Tensor | None]
    """Of the sum of the losses."""
    outputs: Sequence[Tensor]
    """From what the trunk is to be differentiated: usually the features."""
    starts: list[Tensor] | None
    """What each task's row starts from, ``[m, *output.shape]`` per output; None means 1 each."""
    below: Sequence[Tensor] = ()
    """Leaves outside of the trunk that the outputs depend on, with a part in its update."""


class OnFeatures(JacobianRows):
    """Losses with respect to the features, whose combination then goes through the trunk.

    A method is given ``dLᵢ/dz`` for the features ``z`` instead of the parameters' Jacobian, so one
    backward pass of the trunk suffices, whatever the number of objectives (MGDA-UB, Sener & Koltun
    2018, section 3.3).

    :param cut: The losses, cut at the features.
    :param shared: The trunk's parameters.
    :param retain_graph: Whether the trunk's graph can be used again.
    """

    def __init__(self, cut: Cut, shared: Sequence[Tensor], retain_graph: bool) -> None:
        super().__init__(cut.outputs, cut.starts or ())
        self._targets, self._retain = [*shared, *cut.below], retain_graph

    def vjp(self, weights: Sequence[Tensor | None]) -> Gradients:
        """For all that the features depend on."""
        return self._through_the_trunk(super().vjp(weights))

    def direct(self, function: RowFunction, group: int, *, column_wise: bool) -> Gradients:
        """For all that the features depend on."""
        return self._through_the_trunk(super().direct(function, group, column_wise=column_wise))

    def _through_the_trunk(self, of_features: Gradients) -> Gradients:
        features, directions = of_features
        starts = [direction for direction in directions if direction is not None]
        return self._targets, gradients(features, self._targets, starts, self._retain)


def cut_losses(
    losses: Sequence[Tensor],
    features: Representation,
    shared: Sequence[Tensor],
    retain_graph: bool,
) -> Cut:
    """Takes each loss back to the features once, and gives the heads' gradients.

    Where a loss reaches what is shared past the features, too, going on from the features would
    miss a term, and where a feature was computed from another, it would count one twice: the trunk
    is then to be differentiated from the losses themselves.

    :param losses: One tensor, with one objective per entry, or one scalar per objective.
    :param features: The shared representation.
    :param shared: The trunk's parameters.
    :param retain_graph: Whether the graph past the features can be used again.
    :raises ValueError: if the features do not part the graph, see :func:`partition`.
    """
    parts = partition(losses, features, shared)
    scalars = as_scalars(losses)
    if not parts.separates:
        found = gradients(scalars, parts.heads, None, retain_graph=True)
        return Cut(parts.heads, found, scalars, None, parts.below)
    if not parts.features:
        found = gradients(scalars, parts.heads, None, retain_graph)
        return Cut(parts.heads, found, (), None)
    tasks = [parts.heads] * len(scalars)
    rows, (heads, of_heads) = _rows(scalars, None, parts.features, tasks, retain_graph)
    return Cut(heads, of_heads, parts.features, rows, parts.below)


def foreseen_cut(
    losses: Sequence[Tensor], features: Representation, shared: Sequence[Tensor]
) -> Cut:
    """What will be left of the losses at the features, before any head was differentiated.

    :param losses: As :func:`cut_losses` takes them.
    :param features: The shared representation.
    :param shared: The trunk's parameters.
    :raises ValueError: see :func:`partition`.
    """
    parts = partition(losses, features, shared)
    if not parts.separates:
        return Cut([], [], as_scalars(losses), None, parts.below)
    m = sum(loss.numel() for loss in losses)
    starts = [feature.detach().expand(m, *feature.shape) for feature in parts.features]
    return Cut([], [], parts.features, starts, parts.below)


def cut_at(
    features: Features,
    losses: Sequence[Tensor],
    tasks_params: Sequence[Sequence[Tensor]],
    shared_params: Sequence[Tensor],
    *,
    grad_tensors: Sequence[Tensor] | None = None,
    retain_graph: bool = False,
) -> Cut:
    """:func:`cut_losses` for parameters that are given, and losses that need not be scalars.

    :param features: The shared representation.
    :param losses: One per task; scalars, unless ``grad_tensors`` are given.
    :param tasks_params: Per task, the parameters of its head.
    :param shared_params: The trunk's parameters.
    :param grad_tensors: Per task, what to start from instead of 1.
    :param retain_graph: Whether the graph past the features can be used again.
    """
    past = graph_of(losses, stop_at=features)
    direct = _nested(features) or any(past.reaches(parameter) for parameter in shared_params)
    rows, (heads, of_heads) = _rows(
        losses, grad_tensors, () if direct else features, tasks_params, retain_graph or direct
    )
    if direct:
        return Cut(heads, of_heads, losses, _block_rows(losses, grad_tensors))
    return Cut(heads, of_heads, features, rows)


def tasks_leaves(losses: Sequence[Tensor], features: Features) -> list[list[Tensor]]:
    """Per task, the leaves of its loss that were not used to compute the features.

    :param losses: One per task.
    :param features: The shared representation.
    """
    shared = features.below.leaves
    return [without(graph_of([loss], stop_at=features).leaves, shared) for loss in losses]


def check_parts(
    losses: Sequence[Tensor], features: Features, shared: Sequence[Tensor] | None = None
) -> None:
    """Refuses features that no graph can be cut at.

    :param losses: Tensors with a graph.
    :param features: The shared representation, each with a graph.
    :param shared: The trunk's parameters; when None, all that the features depend on.
    :raises ValueError: naming the feature.
    """
    _check_parts(features, features, graph_of(losses, stop_at=features), shared)


def as_scalars(losses: Sequence[Tensor]) -> list[Tensor]:
    """One scalar per objective: the losses, or the entries of the only one."""
    return list(losses) if len(losses) > 1 else list(losses[0].reshape(-1).unbind())


def _named(entries: Sequence[tuple[str, Tensor]]) -> Features:
    found = Features(tensor for _, tensor in entries)
    found.names = tuple(name for name, _ in entries)
    return found


def _entries(given: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """Each tensor with what to call it."""
    if isinstance(given, Tensor):
        yield name, given
    elif isinstance(given, Mapping):
        for key, value in given.items():
            yield from _entries(value, f"{name}[{key!r}]")
    elif isinstance(given, Iterable) and not isinstance(given, str | bytes):
        for position, value in enumerate(given):
            yield from _entries(value, f"{name}[{position}]")
    else:
        raise TypeError(
            f"{name} must be a tensor, or a mapping or a sequence of tensors, not "
            f"{'None' if given is None else type(given).__name__}"
        )


def _check_parts(
    given: Features, cut_at: Features, past: Graph, shared: Sequence[Tensor] | None
) -> None:
    """See :func:`partition`.

    :param given: The features.
    :param cut_at: Those with a graph.
    :param past: The losses' graph as far as these.
    :param shared: The trunk's parameters; when None, all that the features depend on.
    """
    ids = None if shared is None else {id(tensor) for tensor in shared}
    if len(cut_at) < len(given) and ids and (not cut_at or any(id(p) in ids for p in past.leaves)):
        dead = next(i for i, feature in enumerate(given) if not feature.requires_grad)
        raise ValueError(
            f"{given.described(dead)} does not require gradients, but parameters of the shared "
            f"modules do: give what these put out, before it is detached and outside of "
            f"torch.no_grad()"
        )
    unused = _unused(cut_at, past)
    mixed = _mixed(cut_at, past, ids)
    if mixed:
        raise ValueError(
            f"{cut_at.described(unused[0] if unused else 0)} and the losses come out of one "
            f"compiled function, in whose graph nobody can tell the heads from the trunk: compile "
            f"them apart, trunk = torch.compile(trunk) and head = torch.compile(head), or leave "
            f"features out"
        )
    if unused:
        raise ValueError(
            f"{cut_at.described(unused[0])} plays no part in the losses: give the very tensor that "
            f"the heads were called with, not a copy, a view, or the result of another forward pass"
        )
    shares = ids and (not cut_at or any(id(leaf) in ids for leaf in cut_at.below.leaves))
    if ids and not shares and any(id(leaf) in ids for leaf in past.leaves):
        raise ValueError(
            f"{cut_at.described(0)} depends on no parameter of the shared modules, but the losses "
            f"do: give what these modules put out, not what they were given"
        )


def _unused(features: Features, past: Graph) -> list[int]:
    """The positions of features that lie on no way from a loss to a leaf."""
    places = [place_of(feature) for feature in features]
    missed = [i for i, place in enumerate(places) if place not in past.stopped_at]
    if not missed or len(missed) == len(places):
        return missed
    used = graph_of(f for i, f in enumerate(features) if i not in missed)
    passed = {place for node in used.nodes for place in node.next_functions}
    return [i for i in missed if places[i] not in passed]


def _mixed(features: Features, past: Graph, shared: set[int] | None) -> bool:
    """Whether a compiled function holds both the trunk and heads, as far as can be told.

    :param features: Those with a graph.
    :param past: The losses' graph as far as these.
    :param shared: The identities of the trunk's parameters; of no account when None.
    """
    compiled = [node for node in past.nodes if _COMPILED in node.name()]
    for node in compiled:
        if node in features.below.nodes:
            own = [getattr(child, "variable", None) for child, _ in node.next_functions]
            if shared is None or any(
                leaf is not None and leaf.requires_grad and id(leaf) not in shared for leaf in own
            ):
                return True
    return False


def _nested(features: Features) -> bool:
    if len(features) < 2:
        return False
    places = {place_of(feature) for feature in features}
    return any(not places.isdisjoint(node.next_functions) for node in features.below.nodes)


def _rows(
    losses: Sequence[Tensor],
    grad_tensors: Sequence[Tensor] | None,
    features: Sequence[Tensor],
    tasks_params: Sequence[Sequence[Tensor]],
    retain_graph: bool,
) -> tuple[list[Tensor], Gradients]:
    """Each loss with respect to each feature, ``[m, *feature.shape]``, and the heads' gradients."""
    rows: list[list[Tensor | None]] = []
    heads: dict[int, tuple[Tensor, Tensor | None]] = {}
    for task, (loss, params) in enumerate(zip(losses, tasks_params, strict=True)):
        start = None if grad_tensors is None else [grad_tensors[task]]
        keep = retain_graph or task < len(losses) - 1
        found = gradients([loss], [*features, *params], start, retain_graph=keep)
        rows.append(found[: len(features)])
        for param, gradient in zip(params, found[len(features) :], strict=True):
            heads[id(param)] = (param, _sum(heads.get(id(param)), gradient))
    of_features = [
        _stacked(feature, [row[i] for row in rows]) for i, feature in enumerate(features)
    ]
    pairs = list(heads.values())
    return of_features, ([param for param, _ in pairs], [gradient for _, gradient in pairs])


def _sum(present: tuple[Tensor, Tensor | None] | None, gradient: Tensor | None) -> Tensor | None:
    before = None if present is None else present[1]
    if before is None or gradient is None:
        return gradient if before is None else before
    return before + gradient


def _stacked(feature: Tensor, rows: Sequence[Tensor | None]) -> Tensor:
    return torch.stack([torch.zeros_like(feature) if row is None else row for row in rows])


def _block_rows(losses: Sequence[Tensor], starts: Sequence[Tensor] | None) -> list[Tensor] | None:
    """Row i starts from loss i alone; None means each loss is a scalar and starts from 1."""
    if starts is None:
        return None
    blocks = [start.new_zeros((len(losses), *start.shape)) for start in starts]
    for task, start in enumerate(starts):
        blocks[task][task] = start
    return blocks
