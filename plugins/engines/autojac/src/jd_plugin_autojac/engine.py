"""The engine that forms the Jacobian."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from jdframework import hooks, linalg
from jdframework.accumulation import add_to_grad
from jdframework.autograd_graph import Graph, gradients, graph_of, without
from jdframework.bases import Engine, EngineConfig
from jdframework.combination import combine
from jdframework.errors import UnsupportedModelError
from jdframework.multitask import cut_at, default_tasks_params
from jdframework.objectives import check_differentiable, objectives
from jdframework.outcome import Check, Outcome

from jd_plugin_autojac.choice import chunk_size
from jd_plugin_autojac.rows import Rows


class AutojacConfig(EngineConfig):
    """Settings of autojac."""

    parallel_chunk_size: int | None = Field(
        None,
        ge=1,
        description="How many objectives are differentiated at once; 1 never uses torch.vmap, "
        "None lets the engine choose.",
    )


class Autojac(Engine):
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
    capabilities: ClassVar[frozenset[str]] = frozenset({"gramian", "jacobian", "fused"})
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
        parallel_chunk_size: int | None = None,
    ) -> tuple[Tensor | None, ...]:
        """The Jacobian of any tensors with respect to any others.

        :param outputs: What to differentiate, one row per entry.
        :param inputs: With respect to what.
        :param jac_outputs: What each of ``m`` rows starts from, ``[m, *output.shape]`` per output.
        :param retain_graph: Whether the graph can be used again.
        :param parallel_chunk_size: How many rows at once; None lets the engine choose.
        :return: One ``[m, *input.shape]`` per input, None where no output depends on it.
        """
        return self._jacobians(
            graph_of(outputs), outputs, inputs, jac_outputs, retain_graph, parallel_chunk_size
        )

    def compute_jacobian(self, losses: Tensor | Sequence[Tensor], /) -> tuple[Tensor, ...]:
        """One ``[m, *parameter.shape]`` per parameter, zero where no loss depends on it.

        :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
        """
        outputs, parameters = _checked(losses), self.parameters
        m = sum(output.numel() for output in outputs)
        found = self.differentiate(outputs, parameters, retain_graph=True)
        return tuple(
            parameter.new_zeros((m, *parameter.shape)) if block is None else block
            for parameter, block in zip(parameters, found, strict=True)
        )

    def compute_gramian(self, losses: Tensor | Sequence[Tensor], /) -> Float[Tensor, "m m"]:
        """The Gramian of the losses with respect to ``parameters``; the graph stays.

        :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
        :raises ValueError: if they depend on no parameter.
        """
        found = self.differentiate(_checked(losses), self.parameters, retain_graph=True)
        return linalg.gramian(_some(found))

    def update(
        self,
        losses: Tensor | Sequence[Tensor],
        method: Any,
        /,
        *,
        features: Sequence[Tensor] | None = None,
        retain_graph: bool = False,
        check: Check | None = None,
    ) -> Outcome:
        """See :meth:`jdframework.bases.Engine.update`."""
        outputs = _checked(losses)
        if features is None:
            return self._update_everything(outputs, method, retain_graph, check)
        return self._update_trunk(outputs, features, method, retain_graph, check)

    def _update_everything(
        self, outputs: list[Tensor], method: Any, retain_graph: bool, check: Check | None
    ) -> Outcome:
        parameters, graph = self.parameters, graph_of(outputs)
        outside = without(graph.leaves, parameters)
        keep = retain_graph or bool(outside)
        jacobians = self._jacobians(graph, outputs, parameters, retain_graph=keep)
        _some(jacobians)
        values = _values(outputs)
        combined = combine(method, jacobians, losses=values, check=check)
        rest = self._weighted_rest(outputs, outside, combined.outcome.weights, retain_graph)
        add_to_grad([*parameters, *outside], [*combined.directions, *rest])
        return combined.outcome

    def _weighted_rest(
        self,
        outputs: list[Tensor],
        outside: list[Tensor],
        weights: Tensor | None,
        retain_graph: bool,
    ) -> list[Tensor | None]:
        """What ``losses.backward(weights)`` gives leaves that are not the engine's."""
        if not outside:
            return []
        if weights is None:
            shapes = ", ".join(str(list(tensor.shape)) for tensor in outside[:3])
            raise UnsupportedModelError(
                f"the losses also depend on {len(outside)} tensors outside of the given modules "
                f"(shapes {shapes}), for which a method without weights has no update: give "
                f"features=…, or add their module to the Descent"
            )
        parts = torch.split(weights, [output.numel() for output in outputs])
        starts = [w.to(o).reshape(o.shape) for w, o in zip(parts, outputs, strict=True)]
        return gradients(outputs, outside, starts, retain_graph=retain_graph)

    def _update_trunk(
        self,
        outputs: list[Tensor],
        features: Sequence[Tensor],
        method: Any,
        retain_graph: bool,
        check: Check | None,
    ) -> Outcome:
        losses = outputs if len(outputs) > 1 else list(outputs[0].reshape(-1).unbind())
        shared = self.parameters
        tasks = [without(params, shared) for params in default_tasks_params(losses, features)]
        cut = cut_at(features, losses, tasks, shared, retain_graph=retain_graph)
        jacobians = self.differentiate(
            cut.outputs, shared, jac_outputs=cut.starts, retain_graph=retain_graph
        )
        combined = combine(method, jacobians, losses=_values(outputs), check=check)
        add_to_grad([*shared, *cut.head_params], [*combined.directions, *cut.head_gradients])
        return combined.outcome

    def _jacobians(
        self,
        graph: Graph,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor],
        jac_outputs: Sequence[Tensor] | None = None,
        retain_graph: bool = False,
        parallel_chunk_size: int | None = None,
    ) -> tuple[Tensor | None, ...]:
        reached = [graph.reaches(tensor) for tensor in inputs]
        if not any(reached):
            return (None,) * len(inputs)
        used = [tensor for tensor, is_reached in zip(inputs, reached, strict=True) if is_reached]
        rows = Rows(outputs, used, jac_outputs)
        wanted = parallel_chunk_size or self.config.parallel_chunk_size
        if wanted is None:
            wanted = chunk_size(rows.m, used, graph.operations) if rows.is_batch else 1
        with rows.leaving_grad_alone():
            found = self._blocks(rows, graph.operations, min(wanted, rows.m), retain_graph)
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
            if batchable:
                raise
            blocks = rows.one_by_one(retain_graph)
            self._batchable[operations] = False
            self._tell_fallback(error)
            return blocks
        self._batchable[operations] = True
        return blocks

    def _tell_fallback(self, error: Exception) -> None:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"torch.vmap cannot run on this graph ({lines[0]})"
        warnings.warn(
            f"autojac differentiates one objective at a time: {reason}; "
            f"parallel_chunk_size=1 asks for that from the start",
            stacklevel=2,
        )
        hooks.call("jd_fallback", name="autojac", reason=reason)


def _checked(losses: Tensor | Sequence[Tensor]) -> list[Tensor]:
    given = objectives(losses)
    check_differentiable(given)
    return list(given.tensors)


def _values(outputs: Sequence[Tensor]) -> Float[Tensor, " m"]:
    return torch.cat([output.detach().reshape(-1) for output in outputs])


def _some(jacobians: Sequence[Tensor | None]) -> list[Tensor]:
    found = [block for block in jacobians if block is not None]
    if not found:
        raise ValueError(
            "the losses depend on no parameter of the engine's modules that requires gradients: "
            "are these the modules that computed them?"
        )
    return found
