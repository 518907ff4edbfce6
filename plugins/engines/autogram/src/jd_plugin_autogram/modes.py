"""The two ways to what each layer call looks like from the objectives.

Instances: each objective depends on its own instance, so one backward pass of the summed losses
gives every objective's gradient of every layer output, side by side. Tasks: each objective depends
on the whole batch and takes a pass of its own, which stops at the layers' outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from jdframework.autograd_graph import gradients
from jdframework.errors import UnsupportedModelError

from jd_plugin_autogram.routes import Visit
from jd_plugin_autogram.rules import Use, rule_for


class Mode(ABC):
    """The objectives, and how their graph is differentiated."""

    outputs: list[Tensor]
    """What the graph is walked from."""
    m: int
    """How many objectives there are."""

    @abstractmethod
    def differentiated(
        self, visits: Sequence[Visit], around: Sequence[Tensor], retain_graph: bool
    ) -> tuple[list[Use], list[Tensor]]:
        """What the calls look like from the objectives, and the rows of some parameters.

        :param visits: Recorded calls.
        :param around: Parameters that are used outside of recorded calls.
        :param retain_graph: Whether the graph can be used again.
        :return: One use per visit, and ``[m, *shape]`` per parameter.
        :raises UnsupportedModelError: if a call cannot be served exactly.
        """


class Instances(Mode):
    """Losses ``[n, …]`` of independent instances.

    With several losses per instance, one pass each: within a column of ``[n, k]``, every loss
    belongs to another instance. Row ``i·k + j`` of each tensor then belongs to ``losses[i, j]``.

    :param losses: ``[n, …]``, instances along the first dimension.
    """

    def __init__(self, losses: Tensor) -> None:
        self.losses = losses
        self.outputs = [losses]
        self.m = losses.numel()

    def differentiated(
        self, visits: Sequence[Visit], around: Sequence[Tensor], retain_graph: bool
    ) -> tuple[list[Use], list[Tensor]]:
        """See :meth:`Mode.differentiated`."""
        n = len(self.losses)
        edges = [edge for visit in visits for edge in visit.edges.values()]
        columns = self.losses.reshape(n, -1).unbind(1)
        passes = []
        for i, column in enumerate(columns):
            keep = retain_graph or bool(around) or i < len(columns) - 1
            passes.append(gradients([column.sum()], edges, None, keep))
        found = iter([_interleaved(column, n) for column in zip(*passes, strict=True)])
        uses = [_use(visit, found) for visit in visits]
        for use, visit in zip(uses, visits, strict=True):
            use.inputs, use.kwargs = pytree.tree_map(
                lambda a, visit=visit: _repeated(a, n, len(columns), visit),
                (use.inputs, use.kwargs),
            )
        return uses, _rows(_scalars([self.losses]), around, retain_graph)


class Tasks(Mode):
    """Objectives that each depend on the whole batch.

    :param outputs: What is differentiated.
    :param starts: What each of ``m`` rows starts from, ``[m, *output.shape]`` per output; None
        means one row per entry of the outputs.
    """

    def __init__(self, outputs: Sequence[Tensor], starts: Sequence[Tensor] | None = None) -> None:
        self.outputs = list(outputs)
        self.starts = starts
        self.m = sum(o.numel() for o in outputs) if starts is None else len(starts[0])

    def differentiated(
        self, visits: Sequence[Visit], around: Sequence[Tensor], retain_graph: bool
    ) -> tuple[list[Use], list[Tensor]]:
        """See :meth:`Mode.differentiated`."""
        edges = [edge for visit in visits for edge in visit.edges.values()]
        rows = []
        for i, (outputs, start) in enumerate(self._passes()):
            keep = retain_graph or i < self.m - 1
            rows.append(gradients(outputs, [*edges, *around], start, keep))
        columns = list(zip(*rows, strict=True))
        found = iter([_stacked(column) for column in columns[: len(edges)]])
        uses = [_use(visit, found, shared=True) for visit in visits]
        blocks = [_block(p, c) for p, c in zip(around, columns[len(edges) :], strict=True)]
        return uses, blocks

    def _passes(self) -> Iterator[tuple[Sequence[Tensor], Sequence[Tensor] | None]]:
        if self.starts is None:
            yield from _scalars(self.outputs)
            return
        for row in range(self.m):
            yield self.outputs, [start[row] for start in self.starts]


def _scalars(outputs: Sequence[Tensor]) -> Iterator[tuple[Sequence[Tensor], list[Tensor]]]:
    """One pass per entry of each output."""
    for output in outputs:
        for entry in range(output.numel()):
            start = torch.zeros_like(output, memory_format=torch.contiguous_format)
            start.view(-1)[entry] = 1.0
            yield [output], [start]


def _rows(
    passes: Iterator[tuple[Sequence[Tensor], Sequence[Tensor] | None]],
    parameters: Sequence[Tensor],
    retain_graph: bool,
) -> list[Tensor]:
    if not parameters:
        return []
    given = list(passes)
    rows = [
        gradients(outputs, parameters, start, retain_graph or i < len(given) - 1)
        for i, (outputs, start) in enumerate(given)
    ]
    columns = zip(*rows, strict=True)
    return [_block(p, column) for p, column in zip(parameters, columns, strict=True)]


def _block(parameter: Tensor, rows: Sequence[Tensor | None]) -> Tensor:
    return torch.stack([torch.zeros_like(parameter) if row is None else row for row in rows])


def _stacked(rows: Sequence[Tensor | None]) -> Tensor | None:
    known = next((row for row in rows if row is not None), None)
    return None if known is None else _block(known, rows)


def _use(visit: Visit, found: Iterator[Tensor | None], *, shared: bool = False) -> Use:
    call = visit.call
    if call.changed:
        raise UnsupportedModelError(
            f"an input of the layer {type(call.layer).__name__} was changed in place after the "
            f"layer had used it: use the out-of-place operation"
        )
    by_position = {position: next(found) for position in visit.edges}
    inputs, kwargs = pytree.tree_map(_detached, (call.args, dict(call.kwargs)))
    outputs = tuple(by_position.get(i) for i in range(call.outputs))
    return Use(call.layer, inputs, kwargs, outputs, call.training, shared)


def _detached(argument: Any) -> Any:
    return argument.detach() if isinstance(argument, Tensor) else argument


def _repeated(argument: Any, n: int, k: int, visit: Visit) -> Any:
    if not isinstance(argument, Tensor):
        return argument
    rule = rule_for(visit.call.layer)
    length = len(argument) if argument.ndim else 0
    if length == 0 or length % n or (length != n and not rule.positionwise):
        raise UnsupportedModelError(
            f"an input of the layer {type(visit.call.layer).__name__} has shape "
            f"{list(argument.shape)}, whose first dimension does not hold the {n} instances: "
            f"use engine='autojac'"
        )
    by_instance = _by_instance(argument, n)
    return by_instance if k == 1 else by_instance.repeat_interleave(k, dim=0)


def _by_instance(tensor: Tensor, n: int) -> Tensor:
    """``[n, …]``; a layer that was given ``[n·t, …]`` has ``t`` positions per instance."""
    return tensor if len(tensor) == n else tensor.reshape(n, -1, *tensor.shape[1:])


def _interleaved(column: Sequence[Tensor | None], n: int) -> Tensor | None:
    known = next((gradient for gradient in column if gradient is not None), None)
    if known is None:
        return None
    parts = [_by_instance(torch.zeros_like(known) if g is None else g, n) for g in column]
    return parts[0] if len(parts) == 1 else torch.stack(parts, dim=1).flatten(0, 1)
