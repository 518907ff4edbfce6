"""Cutting the graph of several task losses at the features that the tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jdframework.autograd.graph import gradients, graph_of, leaves_of, place_of, without
from jdframework.linearization import Gradients, JacobianRows, RowFunction


@dataclass(frozen=True)
class Cut:
    """What lies past the features is differentiated; what is left is the trunk."""

    head_params: list[Tensor]
    head_gradients: list[Tensor | None]
    """Of the sum of the losses."""
    outputs: Sequence[Tensor]
    """From what the trunk is to be differentiated: usually the features."""
    starts: list[Tensor] | None
    """What each task's row starts from, ``[m, *output.shape]`` per output; None means 1 each."""


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
        self._shared, self._retain = shared, retain_graph

    def vjp(self, weights: Sequence[Tensor | None]) -> Gradients:
        """For the trunk's parameters."""
        return self._through_the_trunk(super().vjp(weights))

    def direct(self, function: RowFunction, group: int, *, column_wise: bool) -> Gradients:
        """For the trunk's parameters."""
        return self._through_the_trunk(super().direct(function, group, column_wise=column_wise))

    def _through_the_trunk(self, of_features: Gradients) -> Gradients:
        features, directions = of_features
        starts = [direction for direction in directions if direction is not None]
        return [*self._shared], gradients(features, self._shared, starts, self._retain)


def check_features(features: Sequence[Tensor]) -> None:
    """Refuses features that no graph can be cut at.

    :param features: The shared representation, one tensor or several.
    :raises ValueError: if there is none, one is given twice, or one has no graph.
    """
    if not features:
        raise ValueError("features is empty: give the shared representation, or leave it out")
    if len({id(feature) for feature in features}) < len(features):
        raise ValueError("features contains a tensor more than once")
    for position, feature in enumerate(features):
        if not feature.requires_grad:
            raise ValueError(
                f"features[{position}] of shape {list(feature.shape)} does not require gradients: "
                f"give the output of the shared modules, before it is detached"
            )


def default_tasks_params(
    losses: Sequence[Tensor], features: Sequence[Tensor]
) -> list[list[Tensor]]:
    """Per task, the leaves of its loss that were not used to compute the features.

    :param losses: One per task.
    :param features: The shared representation, one tensor or several.
    """
    shared = leaves_of(features)
    return [without(leaves_of([loss], stop_at=features), shared) for loss in losses]


def bypassing(
    losses: Sequence[Tensor], features: Sequence[Tensor], shared_params: Sequence[Tensor]
) -> bool:
    """Whether a loss reaches a shared parameter past the features, too, as with tied weights."""
    graph = graph_of(losses, stop_at=features)
    return any(graph.reaches(parameter) for parameter in shared_params)


def nested(features: Sequence[Tensor]) -> bool:
    """Whether one of the features was computed from another, as the levels of a backbone are."""
    if len(features) == 1:
        return False
    places = {place_of(feature) for feature in features}
    return any(not places.isdisjoint(node.next_functions) for node in graph_of(features).nodes)


def separating(
    losses: Sequence[Tensor], features: Sequence[Tensor], shared_params: Sequence[Tensor]
) -> bool:
    """Whether the trunk's Jacobian follows from the losses' derivatives by each feature.

    :param losses: One per task.
    :param features: The shared representation.
    :param shared_params: The trunk's parameters.
    """
    return not (nested(features) or bypassing(losses, features, shared_params))


def cut_at(
    features: Sequence[Tensor],
    losses: Sequence[Tensor],
    tasks_params: Sequence[Sequence[Tensor]],
    shared_params: Sequence[Tensor],
    *,
    grad_tensors: Sequence[Tensor] | None = None,
    retain_graph: bool = False,
) -> Cut:
    """Takes each loss back to the features once, and gives the heads' gradients.

    Where a loss reaches a shared parameter past the features, too, going on from the features
    would miss a term, and where a feature was computed from another, it would count one twice: the
    trunk is then to be differentiated from the losses themselves.

    :param features: The shared representation.
    :param losses: One per task; scalars, unless ``grad_tensors`` are given.
    :param tasks_params: Per task, the parameters of its head.
    :param shared_params: The trunk's parameters.
    :param grad_tensors: Per task, what to start from instead of 1.
    :param retain_graph: Whether the graph past the features can be used again.
    """
    direct = not separating(losses, features, shared_params)
    starts = [None] * len(losses) if grad_tensors is None else [[start] for start in grad_tensors]
    rows: list[list[Tensor | None]] = []
    heads: dict[int, tuple[Tensor, Tensor | None]] = {}
    for task, (loss, params) in enumerate(zip(losses, tasks_params, strict=True)):
        keep = retain_graph or direct or task < len(losses) - 1
        found = gradients([loss], [*features, *params], starts[task], retain_graph=keep)
        rows.append(found[: len(features)])
        for param, gradient in zip(params, found[len(features) :], strict=True):
            heads[id(param)] = (param, _sum(heads.get(id(param)), gradient))
    head_params = [param for param, _ in heads.values()]
    head_gradients = [gradient for _, gradient in heads.values()]
    if direct:
        return Cut(head_params, head_gradients, losses, _block_rows(losses, grad_tensors))
    stacked = [_stacked(feature, [row[i] for row in rows]) for i, feature in enumerate(features)]
    return Cut(head_params, head_gradients, features, stacked)


def cut_losses(
    losses: Sequence[Tensor],
    features: Sequence[Tensor],
    shared: Sequence[Tensor],
    retain_graph: bool,
) -> Cut:
    """:func:`cut_at` for losses as an engine takes them, whose heads are all else that they reach.

    :param losses: One tensor, with one objective per entry, or one scalar per objective.
    :param features: The shared representation.
    :param shared: The trunk's parameters.
    :param retain_graph: Whether the graph past the features can be used again.
    """
    scalars = as_scalars(losses)
    heads = head_params(scalars, features, shared)
    return cut_at(features, scalars, heads, shared, retain_graph=retain_graph)


def as_scalars(losses: Sequence[Tensor]) -> list[Tensor]:
    """One scalar per objective: the losses, or the entries of the only one."""
    return list(losses) if len(losses) > 1 else list(losses[0].reshape(-1).unbind())


def head_params(
    losses: Sequence[Tensor], features: Sequence[Tensor], shared_params: Sequence[Tensor]
) -> list[list[Tensor]]:
    """Per task, the parameters past the features that are not the trunk's, too."""
    return [without(params, shared_params) for params in default_tasks_params(losses, features)]


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
