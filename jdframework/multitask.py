"""Cutting the graph of several task losses at the features that the tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jdframework.autograd_graph import gradients, graph_of, leaves_of, without
from jdframework.protocols import Differentiator


@dataclass(frozen=True)
class Cut:
    """The derivatives on both sides of the features."""

    head_params: list[Tensor]
    head_gradients: list[Tensor | None]
    """Of the sum of the losses."""
    shared_jacobians: tuple[Float[Tensor, "m *shape"] | None, ...]


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


def differentiate_cut(
    engine: Differentiator,
    losses: Sequence[Tensor],
    features: Sequence[Tensor],
    tasks_params: Sequence[Sequence[Tensor]],
    shared_params: Sequence[Tensor],
    *,
    grad_tensors: Sequence[Tensor] | None = None,
    retain_graph: bool = False,
    parallel_chunk_size: int | None = None,
) -> Cut:
    """Gradients of the heads, and the Jacobian of the losses with respect to the shared parameters.

    Each loss is taken back to the features once, and the features' rows go through the trunk
    together. Where a loss reaches a shared parameter past the features, too, that would miss a
    term: the losses are then taken through the whole graph.

    :param engine: What differentiates the trunk.
    :param losses: One per task; scalars, unless ``grad_tensors`` are given.
    :param features: The shared representation.
    :param tasks_params: Per task, the parameters of its head.
    :param shared_params: The trunk's parameters.
    :param grad_tensors: Per task, what to start from instead of 1.
    :param retain_graph: Whether the graph can be used again.
    :param parallel_chunk_size: How many rows to take through the trunk at once.
    """
    direct = bypassing(losses, features, shared_params)
    starts = [None] * len(losses) if grad_tensors is None else [[start] for start in grad_tensors]
    rows: list[list[Tensor | None]] = []
    head_gradients: dict[int, tuple[Tensor, Tensor | None]] = {}
    for task, (loss, params) in enumerate(zip(losses, tasks_params, strict=True)):
        keep = retain_graph or direct or task < len(losses) - 1
        found = gradients([loss], [*features, *params], starts[task], retain_graph=keep)
        rows.append(found[: len(features)])
        for param, gradient in zip(params, found[len(features) :], strict=True):
            head_gradients[id(param)] = (param, _sum(head_gradients.get(id(param)), gradient))
    if direct:
        through, start = losses, _block_rows(losses, grad_tensors)
    else:
        through, start = (
            features,
            [_stacked(f, [r[i] for r in rows]) for i, f in enumerate(features)],
        )
    jacobians = engine.differentiate(
        through,
        shared_params,
        jac_outputs=start,
        retain_graph=retain_graph,
        parallel_chunk_size=parallel_chunk_size,
    )
    params = [param for param, _ in head_gradients.values()]
    return Cut(params, [gradient for _, gradient in head_gradients.values()], jacobians)


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
