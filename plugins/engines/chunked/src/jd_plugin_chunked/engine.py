"""The engine for Jacobians that do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from jdframework.bases import Engine, EngineConfig
from jdframework.bases.jacobian_engine import Starts
from jdframework.linearization import Demand

from jd_plugin_chunked.budget import Budget
from jd_plugin_chunked.layout import Layout
from jd_plugin_chunked.linearization import ChunkedLinearization
from jd_plugin_chunked.memory_setting import Memory
from jd_plugin_chunked.passes import Passes


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


class Chunked(Engine):
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
        self.budget: Budget | None = None
        """What was learnt of the memory, if a step was taken."""
        self._batchable: dict[frozenset[str], bool] = {}

    def linearize(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor] | None = None,
        *,
        cotangents: Sequence[Float[Tensor, "m *shape"]] | None = None,
        groups: Sequence[Sequence[int]] | None = None,
        need: Demand = "gramian",
        retain_graph: bool = False,
    ) -> ChunkedLinearization:
        """See :meth:`jdframework.bases.Engine.linearize`."""
        starts = Starts(outputs, cotangents, inputs, self.parameters if inputs is None else inputs)
        passes = Passes(starts, self._batchable)
        return ChunkedLinearization(self, starts, passes, groups, need, retain_graph)

    def new_budget(self, layout: Layout) -> Budget:
        """The memory that the settings leave now.

        :param layout: Of the columns.
        """
        return Budget(self.config.memory, self.config.parallel_chunk_size, layout.device)
