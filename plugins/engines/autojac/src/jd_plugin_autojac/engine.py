"""The engine that forms the Jacobian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from jdframework.autograd.retained_gradients import (
    RETAINED,
    drop_dead_gradients,
    leaving_grad_alone,
)
from jdframework.autograd.vmap import tell_fallback
from jdframework.bases import EngineConfig, JacobianEngine
from jdframework.bases.jacobian_engine import Starts
from jdframework.linearization import Forecast

from jd_plugin_autojac.chunk_size import chunk_size
from jd_plugin_autojac.rows import Rows


class AutojacConfig(EngineConfig):
    """Settings of autojac."""

    parallel_chunk_size: int | None = Field(
        None,
        ge=1,
        description="How many objectives are differentiated at once; 1 never uses torch.vmap, "
        "None lets the engine choose.",
    )


class Autojac(JacobianEngine):
    """Forms the Jacobian by reverse mode, and serves every method on every model.

    The rows go through the graph together (``torch.vmap``) or one by one, whichever is faster for
    this graph on this device. Where vmap cannot run, the engine goes on one by one and says why
    once. It makes no assumption about the batch, so ``batch_dim`` changes nothing.

    :param modules: The modules whose parameters the objectives share.
    :param batch_dim: Accepted, because every engine takes it.
    :param parallel_chunk_size: How many objectives are differentiated at once.
    :raises UnsupportedModelError: if a module is wrapped for distributed training.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> losses = model(torch.tensor([[1.0, 0.0], [1.0, 2.0]])).flatten()
    >>> Autojac(model).compute_gramian(losses)
    tensor([[1., 1.],
            [1., 5.]])
    """

    Config = AutojacConfig
    config: AutojacConfig
    cost: ClassVar[int] = 50

    def __init__(self, *modules: nn.Module, **config: Any) -> None:
        super().__init__(*modules, **config)
        self._batchable: dict[frozenset[str], bool] = {}

    def differentiate(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor],
        *,
        jac_outputs: Sequence[Tensor] | None = None,
        retain_graph: bool = False,
    ) -> tuple[Tensor | None, ...]:
        """The Jacobian of any tensors with respect to any others.

        :param outputs: What to differentiate, one row per entry.
        :param inputs: With respect to what.
        :param jac_outputs: What each of ``m`` rows starts from, ``[m, *output.shape]`` per output.
        :param retain_graph: Whether the graph can be used again.
        :return: One ``[m, *input.shape]`` per input, None where no output depends on it.
        """
        return self._differentiated(Starts(outputs, jac_outputs, inputs, inputs), retain_graph)

    def _foreseen(self, starts: Starts, held: int | None) -> Forecast:
        used = [tensor for tensor in starts.columns if starts.graph.reaches(tensor)]
        rows = Rows(starts.outputs, used, starts.cotangents)
        operations = starts.graph.operations
        chunk = self._chunk(rows.m, rows.is_batch, used, operations)
        if chunk == 1 or self._batchable.get(operations) is False:
            return Forecast("one objective at a time", held)
        return Forecast(f"{chunk} of {rows.m} objectives at once, by torch.vmap", held)

    def _chunk(
        self, m: int, is_batch: bool, inputs: Sequence[Tensor], operations: frozenset[str]
    ) -> int:
        """How many rows a pass, as long as vmap can run."""
        wanted = self.config.parallel_chunk_size
        if wanted is None:
            wanted = chunk_size(m, inputs, operations) if is_batch else 1
        return min(wanted, m)

    def _differentiated(self, starts: Starts, retain_graph: bool) -> tuple[Tensor | None, ...]:
        graph = starts.graph
        reached = [graph.reaches(tensor) for tensor in starts.columns]
        if not any(reached):
            return (None,) * len(reached)
        used = [
            tensor for tensor, is_reached in zip(starts.columns, reached, strict=True) if is_reached
        ]
        rows = Rows(starts.outputs, used, starts.cotangents)
        operations = graph.operations
        chunk = self._chunk(rows.m, rows.is_batch, used, operations)
        with leaving_grad_alone(used):
            found = self._blocks(rows, operations, chunk, retain_graph)
        blocks = iter(found)
        return tuple(next(blocks) if is_reached else None for is_reached in reached)

    def _blocks(
        self, rows: Rows, operations: frozenset[str], chunk: int, retain_graph: bool
    ) -> list[Tensor]:
        batchable = self._batchable.get(operations)
        if chunk == 1 or batchable is False:
            return rows.one_by_one(retain_graph)
        try:
            # The graph must outlive the first attempt, which may fail half-way.
            blocks = rows.batched(chunk, retain_graph or batchable is None)
        except (RuntimeError, NotImplementedError) as error:
            retained = drop_dead_gradients()
            self._batchable[operations] = batchable is True and not retained
            if batchable:
                raise
            blocks = rows.one_by_one(retain_graph)
            tell_fallback(self.name, RETAINED if retained else error)
            return blocks
        retained = batchable is None and drop_dead_gradients(recent=True)
        self._batchable[operations] = not retained
        if retained:
            tell_fallback(self.name, RETAINED)
        return blocks
