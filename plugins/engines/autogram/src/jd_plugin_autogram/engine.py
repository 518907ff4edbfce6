"""The engine that finds the Gramian layer by layer, without the Jacobian."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.autograd.graph import Node

from jdframework.accumulation import add_to_grad
from jdframework.autograd_graph import without
from jdframework.bases import Engine, EngineConfig
from jdframework.errors import UnsupportedModelError
from jdframework.memory import in_bytes, setting_in_bytes
from jdframework.multitask import as_scalars, cut_at, head_params
from jdframework.objectives import check_differentiable
from jdframework.objectives import objectives as given_objectives
from jdframework.outcome import Check, Forecast, Outcome

from jd_plugin_autogram.experience import Experience
from jd_plugin_autogram.forecast import foreseen
from jd_plugin_autogram.groups import Groups, groups_for
from jd_plugin_autogram.objectives import Instances, Objectives, Tasks
from jd_plugin_autogram.plan import planned, sketched
from jd_plugin_autogram.recording import Recorder
from jd_plugin_autogram.routes import Routes, routes_of
from jd_plugin_autogram.rules import rules
from jd_plugin_autogram.step import Step

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
        that of one instance (the only one, if they have but one); None if each depends on the whole
        batch. In the layers' tensors, instances are found wherever they lie.
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
        self._recorder = Recorder(_recorded_layers(self.modules))
        self._experience = Experience()
        weakref.finalize(self, self._recorder.close)

    @classmethod
    def refusal(cls, modules: Sequence[nn.Module], config: Any) -> str | None:
        """What every engine refuses, and a negative ``batch_dim``."""
        if config.batch_dim is not None and config.batch_dim < 0:
            return "batch_dim counts from the first dimension, 0"
        return super().refusal(modules, config)

    def compute_gramian(self, losses: Tensor | Sequence[Tensor], /) -> Float[Tensor, "m m"]:
        """The Gramian of the losses with respect to ``parameters``; the graph stays.

        :param losses: A tensor of any shape, or a sequence of scalars; with a ``batch_dim``, a
            tensor.
        :raises UnsupportedModelError: if the model cannot be served exactly.
        """
        outputs = _checked(losses)
        step = self._step(self._objectives(outputs))
        gramian = step.gramians(retain_graph=True, keep=False)[0]
        if self._is_to_be_verified(step):
            self._verify(outputs, gramian, step)
        return gramian

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
        groups, outputs = groups_for(method, self.parameters), _checked(losses)
        values = torch.cat([output.detach().reshape(-1) for output in outputs])
        if features is not None:
            return self._update_trunk(outputs, values, features, groups, retain_graph, check)
        step = self._step(self._objectives(outputs), groups.owners)
        if groups.treated_apart and step.outside:
            raise UnsupportedModelError(
                f"the losses also depend on {len(step.outside)} tensors outside of the given "
                f"modules, for which {method.name!r} has no weights: give features=…, add their "
                f"module to the Descent, or, if they are data that a loss is differentiated by, "
                f"call requires_grad_(False) on them before backward"
            )
        unverified = self._is_to_be_verified(step)
        parts = step.gramians(retain_graph=retain_graph or unverified, keep=True)
        checked = self._verifying(outputs, step, check) if unverified else check
        weights, outcome = groups.weighted(parts, values, checked)
        targets, found = step.update(weights, retain_graph)
        add_to_grad(targets, found)
        if not retain_graph:
            self._recorder.forget(step.routes.nodes)
        return outcome

    def forecast(
        self,
        losses: Tensor | Sequence[Tensor],
        method: Any,
        /,
        *,
        features: Sequence[Tensor] | None = None,
    ) -> Forecast:
        """See :meth:`jdframework.bases.Engine.forecast`."""
        outputs = _checked(losses)
        if features is None:
            objectives = self._objectives(outputs)
        else:
            m = sum(output.numel() for output in outputs)
            objectives = Tasks(features, [f.detach().expand(m, *f.shape) for f in features])
        routes = self._routes(objectives)
        size = setting_in_bytes(self.config.memory, objectives.outputs[0].device)
        return foreseen(objectives, sketched(objectives, routes, self.parameters), size)

    def close(self) -> None:
        """Takes the hooks off the model."""
        self._recorder.close()

    def _update_trunk(
        self,
        outputs: list[Tensor],
        values: Tensor,
        features: Sequence[Tensor],
        groups: Groups,
        retain_graph: bool,
        check: Check | None,
    ) -> Outcome:
        losses, shared = as_scalars(outputs), self.parameters
        tasks = head_params(losses, features, shared)
        cut = cut_at(features, losses, tasks, shared, retain_graph=retain_graph)
        step = self._step(Tasks(cut.outputs, cut.starts), groups.owners, outside=False)
        unverified = self._is_to_be_verified(step)
        parts = step.gramians(retain_graph=retain_graph or unverified, keep=True)
        checked = self._verifying(cut.outputs, step, check, cut.starts) if unverified else check
        weights, outcome = groups.weighted(parts, values, checked)
        targets, found = step.update(weights, retain_graph)
        add_to_grad([*targets, *cut.head_params], [*found, *cut.head_gradients])
        if not retain_graph:
            self._recorder.forget(step.routes.nodes)
        return outcome

    def _objectives(self, outputs: list[Tensor]) -> Objectives:
        dim = self.config.batch_dim
        if dim is None:
            return Tasks(outputs)
        if len(outputs) > 1:
            raise UnsupportedModelError(
                "instances need one tensor of losses, the instances along a dimension of it: "
                "torch.stack them, or use engine='autojac'"
            )
        return Instances(outputs[0].reshape(1) if outputs[0].ndim == 0 else outputs[0], dim)

    def _step(
        self,
        objectives: Objectives,
        owners: Mapping[int, int] | None = None,
        *,
        outside: bool = True,
    ) -> Step:
        parameters = self.parameters
        routes = self._routes(objectives)
        plan = planned(objectives, routes, parameters, self._experience)
        owners = owners or {id(parameter): 0 for parameter in parameters}
        others = without(routes.leaves, parameters) if outside else []
        size = self._experience.size(
            routes.kind, lambda: setting_in_bytes(self.config.memory, objectives.outputs[0].device)
        )
        return Step(objectives, routes, plan, parameters, owners, others, size)

    def _routes(self, objectives: Objectives) -> Routes:
        apart = isinstance(objectives, Instances)
        routes = routes_of(objectives.outputs, self._recorder, apart)
        if apart and objectives.n > 1:
            self._refuse_batch_statistics(routes)
        return routes

    def _refuse_batch_statistics(self, routes: Routes) -> None:
        """By them, each loss depends on every instance."""
        if any(_is_of_batch(node) for node in routes.nodes):
            names = [
                f"the layer {name!r} ({type(layer).__name__}): "
                for module in self.modules
                for name, layer in module.named_modules()
                if "BatchNorm" in type(layer).__name__ and layer.training
            ]
            raise UnsupportedModelError(
                f"{names[0] if names else ''}batch normalisation in training mode mixes the "
                f"instances of the batch, so that losses are not independent: call .eval() on it, "
                f"use GroupNorm, or use engine='autojac'"
            )

    def _is_to_be_verified(self, step: Step) -> bool:
        """Every time, where what is seen of one batch's instances is not true of the next's."""
        if not self.config.verify_first:
            return False
        return step.plan.arranged is None or not self._experience.is_trusted(step.kind)

    def _verifying(
        self,
        outputs: Sequence[Tensor],
        step: Step,
        check: Check | None,
        starts: Sequence[Tensor] | None = None,
    ) -> Check:
        """The engine's own check of the Gramian, then the given one."""

        def both(gramian: Tensor) -> None:
            self._verify(outputs, gramian, step, starts)
            if check is not None:
                check(gramian)

        return both

    def _verify(
        self,
        outputs: Sequence[Tensor],
        gramian: Tensor,
        step: Step,
        starts: Sequence[Tensor] | None = None,
    ) -> None:
        """Refuses a Gramian that is wrong; after an overflow, the next step is verified instead."""
        error = self.identity_error(outputs, gramian, starts=starts)
        if not math.isfinite(error):
            return
        tolerance = max(_TOLERANCE.get(p.dtype, _HALF_TOLERANCE) for p in self.parameters)
        if any(_is_of_half_precision(node) for node in step.routes.nodes):
            tolerance = _HALF_TOLERANCE
        if error > tolerance:
            raise UnsupportedModelError(
                f"the Gramian fails uᵀGu = ‖Jᵀu‖² by {error:.1e}: a loss does not depend on just "
                f"its own instance, or a layer gives something else when it is run again; use "
                f"batch_dim=None or engine='autojac'"
            )
        self._experience.verified(step.kind)


def _recorded_layers(modules: Sequence[nn.Module]) -> dict[nn.Module, bool]:
    """The modules with parameters of their own whose calls have a rule, or that have no submodules.

    They map to whether they have no rule. The parameters of other modules, and of submodules that
    are not called, are found on the graph.
    """
    found: dict[nn.Module, bool] = {}
    for layer in (layer for module in modules for layer in module.modules()):
        known = type(layer) in rules()
        is_leaf = next(layer.children(), None) is None
        if (known or is_leaf) and next(layer.parameters(), None) is not None:
            found[layer] = not known
    return found


def _is_of_half_precision(node: Node) -> bool:
    """Whether the node gives what autocast has rounded, or hides where it came from."""
    places = node._input_metadata
    return node.name() == "ToCopyBackward0" or any(p.dtype.itemsize == 2 for p in places)


def _is_of_batch(node: Node) -> bool:
    """Whether the node normalises by statistics of several instances."""
    if "BatchNorm" not in node.name() or not getattr(node, "_saved_training", True):
        return False
    return bool(node._input_metadata[0].shape[0] > 1)  # instance norm makes it one image


def _checked(losses: Tensor | Sequence[Tensor]) -> list[Tensor]:
    given = given_objectives(losses)
    check_differentiable(given)
    return list(given.tensors)
