"""The engine that finds the Gramian layer by layer, without the Jacobian."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.autograd.graph import Node

from jdframework.autograd.memory import in_bytes, setting_in_bytes
from jdframework.bases import Engine, EngineConfig
from jdframework.errors import UnsupportedModelError
from jdframework.linearization import Demand

from jd_plugin_autogram.dependencies import Dependencies, dependencies_of
from jd_plugin_autogram.linearization import AutogramLinearization
from jd_plugin_autogram.objectives import Instances, Objectives, Tasks
from jd_plugin_autogram.probe_cache import ProbeCache
from jd_plugin_autogram.recording import Recorder
from jd_plugin_autogram.rules import rules

_TOLERANCE: Final = {torch.float32: 1e-4, torch.float64: 1e-9}
"""The relative error of the identity up to which a Gramian is taken for exact."""
_HALF_TOLERANCE: Final = 0.1


class AutogramConfig(EngineConfig):
    """Settings of autogram."""

    memory: float | str = Field(
        0.5,
        description="How much memory may hold what saves a second backward pass: a share of what "
        "is free, or an amount such as '4GB'. With less, the same result takes longer.",
    )
    verify_first: bool = Field(
        True,
        description="Whether the first, tenth, hundredth … step on each kind of graph checks "
        "uᵀGu = ‖Jᵀu‖² by one backward pass, and refuses the model if it does not hold; every "
        "step, where the data choose which rows belong to which instance.",
    )

    @field_validator("memory")
    @classmethod
    def _is_an_amount(cls, value: float | str) -> float | str:
        if isinstance(value, str):
            in_bytes(value)
        elif not 0 <= value <= 1:
            raise ValueError("a share lies between 0 and 1; an amount is written as '4GB'")
        return value


class Autogram(Engine):
    """Finds the Gramian layer by layer, and never holds the Jacobian.

    Hooks record each layer's inputs in the forward pass. With a ``batch_dim``, one backward pass of
    the summed losses gives the gradient of each layer's output, a part of which belongs to each
    instance; with ``batch_dim=None``, a pass for each objective does. From the two, a rule per
    layer type computes the layer's share of the Gramian and, once the weights are known, of the
    update: no second backward pass. A parameter that is used several times, or outside of its
    layer's own call, is found on the graph and counted exactly. The first step on each kind of
    graph finds out where the instances lie in each tensor, and is checked against autograd.

    :param modules: The modules whose parameters the objectives share.
    :param batch_dim: The dimension of the losses along which the instances lie, if each loss is
        that of one instance (the only one, if they have but one; -1 is the last); None if each
        depends on the whole batch. In the layers' tensors, instances are found wherever they lie.
    :param memory: What may be kept to save a second backward pass.
    :param verify_first: Whether the first, tenth, hundredth … step are checked.
    :raises UnsupportedModelError: if a module is wrapped for distributed training, or has complex
        parameters.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> engine = Autogram(model, batch_dim=0)
    >>> losses = model(torch.tensor([[1.0, 0.0], [1.0, 2.0]])).flatten()
    >>> engine.compute_gramian(losses)
    tensor([[1., 1.],
            [1., 5.]])
    """

    Config = AutogramConfig
    config: AutogramConfig
    capabilities: ClassVar[frozenset[str]] = frozenset({"gramian", "fused"})
    cost: ClassVar[int] = 10

    def __init__(self, *modules: nn.Module, **config: Any) -> None:
        super().__init__(*modules, **config)
        self.recorder = Recorder(_recorded_layers(self.modules))
        self.cache = ProbeCache()
        weakref.finalize(self, self.recorder.close)

    @classmethod
    def refusal(cls, modules: Sequence[nn.Module], config: Any) -> str | None:
        """What every engine refuses, and what cannot be watched."""
        return super().refusal(modules, config) or _scripted(modules)

    def linearize(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor] | None = None,
        *,
        cotangents: Sequence[Float[Tensor, "m *shape"]] | None = None,
        groups: Sequence[Sequence[int]] | None = None,
        need: Demand = "gramian",
        retain_graph: bool = False,
    ) -> AutogramLinearization:
        """See :meth:`jdframework.bases.Engine.linearize`.

        With inputs, which are the engine's parameters, each objective depends on the whole batch.

        :raises UnsupportedModelError: if the graph shows that the model cannot be served exactly.
        """
        self.recorder.come_back()
        outputs = list(outputs)
        dim = None if inputs is not None or cotangents is not None else self.config.batch_dim
        objectives = self._objectives(outputs, dim, cotangents)
        return AutogramLinearization(
            self, objectives, self._dependencies(objectives), groups, inputs is None, retain_graph
        )

    def close(self) -> None:
        """Takes the hooks off the model."""
        self.recorder.close(self.modules)

    def _objectives(
        self, outputs: list[Tensor], dim: int | None, cotangents: Sequence[Tensor] | None
    ) -> Objectives:
        if dim is None:
            return Tasks(outputs, cotangents)
        if len(outputs) > 1:
            raise UnsupportedModelError(
                "instances need one tensor of losses, the instances along a dimension of it: "
                "torch.stack them, or use engine='autojac'"
            )
        return Instances(outputs[0].reshape(1) if outputs[0].ndim == 0 else outputs[0], dim)

    def _dependencies(self, objectives: Objectives) -> Dependencies:
        per_instance = isinstance(objectives, Instances)
        dependencies = dependencies_of(objectives.outputs, self.recorder, per_instance)
        if per_instance and objectives.n > 1:
            self._refuse_batch_statistics(dependencies)
        return dependencies

    def _refuse_batch_statistics(self, dependencies: Dependencies) -> None:
        """By them, each loss depends on every instance."""
        if any(_is_of_batch(node) for node in dependencies.nodes):
            names = [
                f"the layer {name!r} ({type(layer).__name__}): "
                for module in self.modules
                for name, layer in module.named_modules()
                if "BatchNorm" in type(layer).__name__ and layer.training
            ]
            raise UnsupportedModelError(
                f"{names[0] if names else ''}batch normalisation in training mode mixes the "
                f"instances of the batch, so that losses are not independent: call .eval() on it, "
                f"use GroupNorm (jd_plugin_autogram.replace_batch_norm), or use engine='autojac'"
            )

    def memory_for(self, dependencies: Dependencies, device: torch.device) -> int:
        """How many bytes may be kept from the Gramian for the update.

        :param dependencies: What the step goes along.
        :param device: Where.
        """
        return self.cache.size(
            dependencies.kind, lambda: setting_in_bytes(self.config.memory, device)
        )

    def verify_gramian(self, lin: AutogramLinearization, gramian: Float[Tensor, "m m"]) -> bool:
        """Refuses a Gramian that is wrong; False after an overflow, which tells nothing of it.

        :param lin: What it is of.
        :param gramian: That of all parameters.
        """
        objectives = lin.objectives
        error = self.identity_error(objectives.outputs, gramian, starts=objectives.starts)
        if not math.isfinite(error):
            return False
        tolerance = max(_TOLERANCE.get(p.dtype, _HALF_TOLERANCE) for p in lin.inputs)
        if any(_is_of_half_precision(node) for node in lin.dependencies.nodes):
            tolerance = _HALF_TOLERANCE
        if error > tolerance:
            raise UnsupportedModelError(
                f"the Gramian fails uᵀGu = ‖Jᵀu‖² by {error:.1e}: a loss does not depend on just "
                f"its own instance; use batch_dim=None or engine='autojac'"
            )
        return True


def _scripted(modules: Sequence[nn.Module]) -> str | None:
    """Hooks cannot be put on what TorchScript runs."""
    for module in modules:
        for name, layer in module.named_modules():
            if isinstance(layer, torch.jit.ScriptModule):
                which = f"the layer {name!r}" if name else "the module"
                return (
                    f"{which} is compiled by torch.jit, which lets no hooks see the calls of its "
                    f"layers: use engine='autojac', or give it uncompiled"
                )
    return None


def _recorded_layers(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """The layers with parameters whose type has a rule.

    The parameters of other modules, and of layers that are not called, are found on the graph.
    """
    layers = (layer for module in modules for layer in module.modules() if type(layer) in rules())
    return list(
        dict.fromkeys(layer for layer in layers if next(layer.parameters(), None) is not None)
    )


def _is_of_half_precision(node: Node) -> bool:
    """Whether the node gives what autocast has rounded, or hides where it came from."""
    places = node._input_metadata
    return node.name() == "ToCopyBackward0" or any(p.dtype.itemsize == 2 for p in places)


def _is_of_batch(node: Node) -> bool:
    """Whether the node normalises by statistics of several instances."""
    if "BatchNorm" not in node.name() or not getattr(node, "_saved_training", True):
        return False
    return bool(node._input_metadata[0].shape[0] > 1)  # instance norm makes it one image
