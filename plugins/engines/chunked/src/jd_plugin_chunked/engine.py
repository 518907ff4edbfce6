"""The engine for Jacobians that do not fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from jdframework.autograd_graph import Graph, graph_of
from jdframework.bases import EngineConfig, JacobianEngine
from jdframework.bases.jacobian_engine import checked_losses, graph_reaching
from jdframework.combination import Combination
from jdframework.outcome import Check, Forecast

from jd_plugin_chunked import columns, storage
from jd_plugin_chunked.amount import Memory
from jd_plugin_chunked.budget import Budget
from jd_plugin_chunked.combination import combine, needs_whole_rows
from jd_plugin_chunked.layout import Layout
from jd_plugin_chunked.passes import Passes
from jd_plugin_chunked.rows import KeptRows, RecomputedRows, Rows
from jd_plugin_chunked.shortage import Shortage, attempt, is_out_of_memory


class ChunkedConfig(EngineConfig):
    """Settings of chunked."""

    memory: Memory = Field(
        None,
        description="How much memory the rows may take on the device, beyond an ordinary backward "
        "pass: an amount ('500MB'), a share of what is free at the first step (0.25), or None for "
        "half of it.",
        examples=["4GB", 0.25],
    )
    offload: Literal["auto", "host", "disk"] | None = Field(
        "auto",
        description="Where rows are kept: in host memory, in a file on disk, or 'auto' for the "
        "device if they fit, else the host, else the disk. None keeps none that do not fit, and "
        "takes them again for each block of columns.",
    )
    directory: str | None = Field(
        None,
        description="Where files go; None is the system's directory for temporary files.",
    )
    parallel_chunk_size: int | None = Field(
        None,
        ge=1,
        description="How many objectives are differentiated at once; 1 never uses torch.vmap, "
        "None lets the budget decide.",
    )


class Chunked(JacobianEngine):
    """Serves every method within a memory budget, where the Jacobian does not fit.

    The rows are taken in chunks. Each is copied to where it is kept: host memory (pinned, and
    beside the computation of the next chunk, on CUDA) or a file that is mapped into memory. Then
    all ``m`` rows of some columns at a time come back, and what is made of them is added up or
    joined: the Gramian, :math:`J^\\top w`, and the direction of an aggregator that is
    ``column_wise``. So every row is computed once, and comes back twice: for the Gramian, and for
    the direction. A method of the whole Jacobian is called where the rows lie, on the host.

    With ``offload=None`` nothing is kept. Each block of columns is then taken through the graph
    again, ``m`` passes that compute no other gradients, and :math:`J^\\top w` is one backward pass.
    With ``k`` blocks that is up to ``k`` times the work, which is why it is not the default. A
    method of the whole Jacobian then gets it on the device, whatever the budget.

    Where memory runs out all the same, the chunk is halved, or the rows move to the host, and the
    step goes on; less is taken from then on. It makes no assumption about the batch, so
    ``batch_dim`` changes nothing.

    :param modules: The modules whose parameters the objectives share.
    :param memory: An amount, or a share of what is free at the first step; half of it when None.
        It is what rows may take at once beyond an ordinary backward pass; a budget below two rows
        counts as two.
    :param offload: ``"auto"``, ``"host"``, ``"disk"`` or None. On a CPU the host's memory is the
        device's, so that ``"auto"`` means the disk if the rows do not fit the budget.
    :param directory: Where files go. Choose a disk: some systems keep ``/tmp`` in memory.
    :param batch_dim: Accepted, because every engine takes it.
    :param parallel_chunk_size: How many objectives are differentiated at once.
    :raises UnsupportedModelError: if a module is wrapped for distributed training.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> losses = model(torch.tensor([[1.0, 0.0], [1.0, 2.0]])).flatten()
    >>> Chunked(model, memory="1MB").compute_gramian(losses)
    tensor([[1., 1.],
            [1., 5.]])
    """

    Config = ChunkedConfig
    config: ChunkedConfig
    capabilities: ClassVar[frozenset[str]] = frozenset({"gramian", "jacobian"})
    cost: ClassVar[int] = 70

    def __init__(self, *modules: nn.Module, **config: Any) -> None:
        super().__init__(*modules, **config)
        self._budget: Budget | None = None
        self._batchable: dict[frozenset[str], bool] = {}

    def differentiate(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor],
        *,
        jac_outputs: Sequence[Tensor] | None = None,
        retain_graph: bool = False,
    ) -> tuple[Tensor | None, ...]:
        """The Jacobian of any tensors with respect to any others, where its rows are kept.

        A file goes with the last tensor that is part of it.

        :param outputs: What to differentiate, one row per entry.
        :param inputs: With respect to what.
        :param jac_outputs: What each of ``m`` rows starts from, ``[m, *output.shape]`` per output.
        :param retain_graph: Whether the graph can be used again.
        :return: One ``[m, *input.shape]`` per input, None where no output depends on it.
        """
        graph = graph_of(outputs)
        reached = _reached(graph, inputs)
        found: list[Tensor | None] = [None] * len(inputs)
        if reached:
            passes = Passes(graph, outputs, jac_outputs, self._batchable)
            layout = Layout([inputs[i] for i in reached])
            with self._forgetting_failures():
                rows = self._kept(passes, layout, retain_graph)
            for position, block in zip(reached, rows.layout.blocks(rows.matrix), strict=True):
                found[position] = block
        return tuple(found)

    def compute_gramian(self, losses: Tensor | Sequence[Tensor], /) -> Float[Tensor, "m m"]:
        """The Gramian of the losses with respect to ``parameters``; the graph stays.

        :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
        :raises ValueError: if they depend on no parameter.
        """
        outputs, parameters = checked_losses(losses), self.parameters
        graph = graph_reaching(outputs, parameters)
        reached = _reached(graph, parameters)
        passes = Passes(graph, outputs, None, self._batchable)
        layout = Layout([parameters[i] for i in reached])
        with self._forgetting_failures():
            rows = self._rows(passes, layout, whole=False, retain_graph=True)
            return columns.gramian(rows, range(len(reached)))

    def forecast(
        self,
        losses: Tensor | Sequence[Tensor],
        method: Any,
        /,
        *,
        features: Sequence[Tensor] | None = None,
    ) -> Forecast:
        """See :meth:`jdframework.bases.Engine.forecast`."""
        outputs, parameters = checked_losses(losses), self.parameters
        graph = graph_reaching(outputs, parameters)
        layout = Layout([parameters[i] for i in _reached(graph, parameters)])
        m = sum(output.numel() for output in outputs)
        cut = outputs if features is None else features
        passes = Passes(graph_of(cut), cut, None, self._batchable)
        budget = copy(self._budget) or self._new_budget(layout)
        # On the features, the rows of all objectives start together.
        together = passes.batched if features is None else passes.batchable
        rows = min(budget.rows(layout), m) if together else 1
        taken = "one objective at a time" if rows == 1 else f"{rows} of {m} objectives at once"
        jacobian = super().forecast(losses, method, features=features).memory
        held = budget.size if jacobian is None else min(budget.size, jacobian)
        whole = needs_whole_rows(method, len(parameters))
        if self.config.offload is None and not whole and not budget.holds(m, layout):
            return Forecast(f"{taken}, again for each block of columns", held)
        place = self._places(m, layout, budget)[0]
        return Forecast(f"{taken}, kept on the {place}", held)

    def _combined(
        self,
        graph: Graph,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor],
        method: Any,
        *,
        starts: Sequence[Tensor] | None,
        losses: Float[Tensor, " m"],
        check: Check | None,
        retain_graph: bool,
    ) -> Combination:
        reached = _reached(graph, inputs)
        passes = Passes(graph, outputs, starts, self._batchable)
        layout = Layout([inputs[i] for i in reached])
        whole = needs_whole_rows(method, len(inputs))
        with self._forgetting_failures():
            return combine(
                method,
                self._rows(passes, layout, whole, retain_graph),
                reached,
                len(inputs),
                losses=losses,
                check=check,
                retain_graph=retain_graph,
            )

    def _rows(self, passes: Passes, layout: Layout, whole: bool, retain_graph: bool) -> Rows:
        if self.config.offload is not None or whole:
            return self._kept(passes, layout, retain_graph)
        budget = self._budget_on(layout)
        if budget.holds(passes.m, layout):
            kept = attempt(partial(self._kept, passes, layout, retain_graph))
            if not isinstance(kept, Shortage):
                return kept
            if passes.freed:
                raise kept.error
            budget.leave_device()
            budget.tell(kept, "takes the rows again for each block of columns")
        return RecomputedRows(passes, layout, budget)

    def _kept(self, passes: Passes, layout: Layout, retain_graph: bool) -> KeptRows:
        budget = self._budget_on(layout)
        places = self._places(passes.m, layout, budget)
        return KeptRows(passes, layout, budget, places, self.config.directory, retain_graph)

    def _places(self, m: int, layout: Layout, budget: Budget) -> list[storage.Place]:
        """Where rows may lie, the best first."""
        offload = self.config.offload
        if offload is None:
            return ["device"]
        if offload != "auto":
            return [offload]
        places: list[storage.Place] = ["disk"]
        if layout.device.type != "cpu" and storage.host_has_room(m, layout):
            places.insert(0, "host")
        if budget.holds(m, layout):
            places.insert(0, "device")
        return places

    @contextmanager
    def _forgetting_failures(self) -> Iterator[None]:
        """Where nothing was little enough, memory may be free again in the next step."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                self._budget = None
            raise

    def _budget_on(self, layout: Layout) -> Budget:
        if self._budget is None:
            self._budget = self._new_budget(layout)
        return self._budget

    def _new_budget(self, layout: Layout) -> Budget:
        return Budget(self.config.memory, self.config.parallel_chunk_size, layout.device)


def _reached(graph: Graph, inputs: Sequence[Tensor]) -> list[int]:
    return [position for position, tensor in enumerate(inputs) if graph.reaches(tensor)]
