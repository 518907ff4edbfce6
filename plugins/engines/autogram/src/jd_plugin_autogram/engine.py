"""The engine that finds the Gramian layer by layer, without the Jacobian."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from jdframework.accumulation import add_to_grad
from jdframework.autograd_graph import gradients, without
from jdframework.bases import Engine, EngineConfig, WeightedSum
from jdframework.combination import weights_of
from jdframework.errors import UnsupportedModelError
from jdframework.multitask import cut_at, default_tasks_params
from jdframework.objectives import check_differentiable, objectives
from jdframework.outcome import Check, Outcome

from jd_plugin_autogram.modes import Instances, Mode, Tasks
from jd_plugin_autogram.pieces import Piece, Rows
from jd_plugin_autogram.recording import Recorder
from jd_plugin_autogram.routes import Routes, Visit, routes_of
from jd_plugin_autogram.rules import rule_for, rules

_TOLERANCE: Final = {torch.float32: 1e-4, torch.float64: 1e-9}
"""The relative error of the identity up to which a Gramian is taken for exact."""
_HALF_TOLERANCE: Final = 0.1


class AutogramConfig(EngineConfig):
    """Settings of autogram."""

    verify_first: bool = Field(
        True,
        description="Whether the first step on each kind of graph checks uᵀGu = ‖Jᵀu‖² by one "
        "backward pass, and refuses the model if it does not hold.",
    )


class Autogram(Engine):
    """Finds the Gramian layer by layer, and never holds the Jacobian.

    Hooks record each layer's inputs in the forward pass. With ``batch_dim=0``, one backward pass of
    the summed losses gives the gradient of each layer's output, row i of which belongs to instance
    i; with ``batch_dim=None``, a pass for each objective does. From the two, a rule per layer type
    computes the layer's share of the Gramian and, once the weights are known, of the update: no
    second backward pass. A parameter that is used several times, or outside of its layer's own
    call, is found on the graph and counted exactly. The first step on each kind of graph is
    checked against autograd.

    :param modules: The modules whose parameters the objectives share.
    :param batch_dim: 0 if each loss is that of one instance, the instances lying along the first
        dimension of the losses and of every layer's tensors; None if it depends on the whole batch.
    :param verify_first: Whether the first step is checked.
    :raises UnsupportedModelError: if a module is wrapped for distributed training, or ``batch_dim``
        is another dimension.

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
        self._verified: set[tuple[int, frozenset[str]]] = set()
        weakref.finalize(self, self._recorder.close)

    @classmethod
    def refusal(cls, modules: Sequence[nn.Module], config: Any) -> str | None:
        """Wrapped models, and instances along another dimension than the first."""
        if config.batch_dim not in (0, None):
            return "instances must lie along the first dimension, batch_dim=0"
        return super().refusal(modules, config)

    def compute_gramian(self, losses: Tensor | Sequence[Tensor], /) -> Float[Tensor, "m m"]:
        """The Gramian of the losses with respect to ``parameters``; the graph stays.

        :param losses: A tensor, or a sequence of scalars; with ``batch_dim=0`` a tensor
            ``[n, …]``, instances along the first dimension.
        :raises UnsupportedModelError: if the model cannot be served exactly.
        """
        mode = self._mode(_checked(losses))
        routes = routes_of(mode.outputs, self._recorder)
        return _summed(self._pieces(mode, routes, retain_graph=True))

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
        weighting, outputs = _weighting_of(method), _checked(losses)
        values = torch.cat([output.detach().reshape(-1) for output in outputs])
        if features is not None:
            return self._update_trunk(outputs, values, features, weighting, retain_graph, check)
        mode = self._mode(outputs)
        routes = routes_of(mode.outputs, self._recorder)
        outside = without(routes.around, self.parameters)
        unverified = self.config.verify_first and _kind_of(routes) not in self._verified
        keep = retain_graph or unverified or bool(outside)
        pieces = self._pieces(mode, routes, retain_graph=keep)
        gramian = _summed(pieces)
        if unverified:
            self._verify(outputs, gramian, routes)
        outcome = _outcome(weighting, gramian, values, check)
        rest = gradients(outputs, outside, _starts(outputs, outcome.weights), retain_graph)
        _add(pieces, outcome.weights, outside, rest)
        if not retain_graph:
            self._recorder.forget(routes.nodes)
        return outcome

    def close(self) -> None:
        """Takes the hooks off the model."""
        self._recorder.close()

    def _update_trunk(
        self,
        outputs: list[Tensor],
        values: Tensor,
        features: Sequence[Tensor],
        weighting: Any,
        retain_graph: bool,
        check: Check | None,
    ) -> Outcome:
        losses = outputs if len(outputs) > 1 else list(outputs[0].reshape(-1).unbind())
        shared = self.parameters
        tasks = [without(params, shared) for params in default_tasks_params(losses, features)]
        cut = cut_at(features, losses, tasks, shared, retain_graph=retain_graph)
        mode = Tasks(cut.outputs, cut.starts)
        routes = routes_of(mode.outputs, self._recorder)
        pieces = self._pieces(mode, routes, retain_graph)
        outcome = _outcome(weighting, _summed(pieces), values, check)
        _add(pieces, outcome.weights, cut.head_params, cut.head_gradients)
        if not retain_graph:
            self._recorder.forget(routes.nodes)
        return outcome

    def _mode(self, outputs: list[Tensor]) -> Mode:
        if self.config.batch_dim is None:
            return Tasks(outputs)
        if len(outputs) > 1:
            raise UnsupportedModelError(
                "instances need one tensor of losses, the instances along its first dimension: "
                "torch.stack them, or use engine='autojac'"
            )
        return Instances(outputs[0].reshape(1) if outputs[0].ndim == 0 else outputs[0])

    def _pieces(self, mode: Mode, routes: Routes, retain_graph: bool) -> list[Piece]:
        """What each parameter contributes, in the cheapest form that counts all of its uses."""
        if isinstance(mode, Instances):
            _refuse_mixing(routes)
        parameters = self.parameters
        around = without(parameters, without(parameters, routes.around))
        visits = [visit for visit in routes.visits if self._wanted(visit, around)]
        for visit in visits:
            self._refuse_unserved(visit.call.layer)
        uses, rows = mode.differentiated(visits, around, retain_graph)
        counts = Counter(id(p) for visit in visits for p in self._wanted(visit, around))
        pieces: list[Piece] = []
        summed: dict[int, tuple[Tensor, Tensor]] = {}
        for visit, use in zip(visits, uses, strict=True):
            rule, wanted = rule_for(use.layer), self._wanted(visit, around)
            alone = [p for p in wanted if counts[id(p)] == 1]
            pieces += rule.pieces(use, alone) if alone else []
            several = [p for p in wanted if counts[id(p)] > 1]
            blocks = rule.rows(use, several) if several else []
            for parameter, block in zip(several, blocks, strict=True):
                before = summed.get(id(parameter))
                summed[id(parameter)] = (parameter, block if before is None else before[1] + block)
        pieces += [Rows([parameter], [block]) for parameter, block in summed.values()]
        return [*pieces, Rows(around, rows)] if around else pieces

    def _wanted(self, visit: Visit, around: Sequence[Tensor]) -> list[nn.Parameter]:
        """The parameters of ours that this call uses, and that nothing uses around calls."""
        layer = visit.call.layer
        ours = {id(p) for p in without(self.parameters, around)}
        own = layer.parameters(recurse=rule_for(layer).whole)
        return [p for p in own if p.requires_grad and id(p) in ours]

    def _refuse_unserved(self, layer: nn.Module) -> None:
        reason = rule_for(layer).refusal(layer)
        if reason is not None:
            names = {inner: name for m in self.modules for name, inner in m.named_modules()}
            raise UnsupportedModelError(
                f"the layer {names.get(layer, '')!r} ({type(layer).__name__}): {reason}"
            )

    def _verify(self, outputs: list[Tensor], gramian: Tensor, routes: Routes) -> None:
        error = self.identity_error(outputs, gramian)
        tolerance = max(_TOLERANCE.get(p.dtype, _HALF_TOLERANCE) for p in self.parameters)
        if torch.is_autocast_enabled(gramian.device.type):
            tolerance = _HALF_TOLERANCE
        if not error <= tolerance and bool(torch.isfinite(gramian).all()):
            raise UnsupportedModelError(
                f"the Gramian fails uᵀGu = ‖Jᵀu‖² by {error:.1e}: a loss does not depend on just "
                f"its own instance along dimension 0; use batch_dim=None or engine='autojac'"
            )
        self._verified.add(_kind_of(routes))


def _recorded_layers(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """The modules whose calls have a rule: those with parameters of their own.

    A module with both parameters and submodules of its own that has no rule is left out: its
    submodules are recorded, and its own parameters are found on the graph.
    """
    found: dict[int, nn.Module] = {}
    covered: set[int] = set()
    for layer in (layer for module in modules for layer in module.modules()):
        if id(layer) in covered:
            continue
        known = type(layer) in rules()
        if known and rule_for(layer).whole:
            covered |= {id(inner) for inner in layer.modules()}
        is_leaf = next(layer.children(), None) is None
        if (known or is_leaf) and next(layer.parameters(recurse=known), None) is not None:
            found[id(layer)] = layer
    return list(found.values())


def _refuse_mixing(routes: Routes) -> None:
    """Refuses batch statistics, by which each loss depends on every instance."""
    for node in routes.nodes:
        if "BatchNorm" in node.name() and getattr(node, "_saved_training", True):
            raise UnsupportedModelError(
                "batch normalisation in training mode mixes the instances of the batch, so that "
                "losses are not independent: call .eval() on it, use GroupNorm, or use "
                "engine='autojac'"
            )


def _summed(pieces: Sequence[Piece]) -> Float[Tensor, "m m"]:
    if not pieces:
        raise ValueError(
            "the losses depend on no parameter of the engine's modules that requires gradients: "
            "are these the modules that computed them?"
        )
    total = pieces[0].gramian()
    for piece in pieces[1:]:
        total = total + piece.gramian()
    return total


def _kind_of(routes: Routes) -> tuple[int, frozenset[str]]:
    return len(routes.visits), frozenset(node.name() for node in routes.nodes)


def _weighting_of(method: Any) -> Any:
    weighting: Any = method.weighting if isinstance(method, WeightedSum) else method
    if weighting.kind != "weighting" or "jacobian" in weighting.needs:
        raise UnsupportedModelError(
            f"{weighting.name!r} needs the Jacobian, which autogram never forms: "
            f"use engine='autojac'"
        )
    return weighting


def _outcome(weighting: Any, gramian: Tensor, values: Tensor, check: Check | None) -> Outcome:
    if check is not None:
        check(gramian)
    return Outcome(weights_of(weighting, gramian, (), values), gramian)


def _starts(outputs: Sequence[Tensor], weights: Tensor | None) -> list[Tensor]:
    assert weights is not None
    parts = torch.split(weights, [output.numel() for output in outputs])
    return [part.to(o.dtype).reshape(o.shape) for part, o in zip(parts, outputs, strict=True)]


def _add(
    pieces: Sequence[Piece],
    weights: Tensor | None,
    others: Sequence[Tensor],
    gradients_: Sequence[Tensor | None],
) -> None:
    assert weights is not None
    targets = [parameter for piece in pieces for parameter in piece.parameters]
    found = [gradient for piece in pieces for gradient in piece.gradients(weights)]
    add_to_grad([*targets, *others], [*found, *gradients_])


def _checked(losses: Tensor | Sequence[Tensor]) -> list[Tensor]:
    given = objectives(losses)
    check_differentiable(given)
    return list(given.tensors)
