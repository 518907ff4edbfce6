"""The one object of a training loop: a method, and the engine that serves it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from jdframework import hooks, registry
from jdframework.autograd import modules as shared_modules
from jdframework.autograd.accumulation import add_to_grad
from jdframework.autograd.graph import leaves_of, without
from jdframework.autograd.rollback import GradientsApart, GradientsUndone, StateUndone
from jdframework.bases import WeightedSum
from jdframework.bases.engine import linearized, unserved
from jdframework.descent.engine_choice import Choice, Settled, choose, is_auto, preferred_kinds
from jdframework.descent.step import Step
from jdframework.errors import ConfigError, NonFiniteError, UnsupportedModelError
from jdframework.linearization import Gradients, Linearization, summed
from jdframework.linearization.cross_gramian import (
    Crossed,
    Independent,
    WithCrossGramian,
    cross_gramian,
    independent_batches,
)
from jdframework.linearization.features import (
    Cut,
    OnFeatures,
    as_scalars,
    bypassing,
    check_features,
    cut_losses,
    nested,
)
from jdframework.linearization.finite import Finiteness
from jdframework.linearization.objectives import (
    Losses,
    Objectives,
    check_differentiable,
    in_order,
    objectives,
)
from jdframework.linearization.scaled import LossScale
from jdframework.linearization.update import Update, treats_groups, update
from jdframework.protocols import ActsAfterUpdate, Engine, HasEpochs, Stateful
from jdframework.registry import Spec

OnNonFinite = Literal["raise", "skip", "propagate"]
On = Literal["parameters", "features"]

_AUTOGRAD: Final = "autograd"
_T = TypeVar("_T")


class Descent:
    """Trains modules on several objectives, by any method.

    A scalarizer takes one ordinary backward pass; a weighting or an aggregator runs on an engine.
    A name that is both (``mean``, ``sum``, ``constant``, ``random``) runs as the scalarizer, the
    cheaper way to the same step, unless an engine is named. Where ``features`` are given, it is the
    same for the trunk alone: with an engine, heads get their plain gradient, and not the weighted
    one.

    :param modules: The module, or the modules, whose parameters the objectives share.
    :param method: A spec of a weighting, an aggregator or a scalarizer.
    :param engine: A spec of an engine, or ``"auto"`` for the cheapest that serves the method and
        the model; scalarizers need none.
    :param on: On whose gradients the method works: ``"parameters"``, or ``"features"`` for those of
        the shared representation that ``backward`` is given (MGDA-UB). The latter is cheaper, one
        backward pass of the trunk in all, needs no engine, and the step's Gramian is the features'.
    :param batch_dim: The dimension along which instances are independent and each has its own
        loss; None if each objective depends on the whole batch.
    :param on_nonfinite: What to do if a loss or a gradient is NaN or infinite: ``"raise"``,
        ``"skip"`` the step and leave ``.grad`` as it is, or ``"propagate"``: weights and ``.grad``
        are NaN, and the method is not called, so that it remembers nothing of the step; a method
        that claims to be ``robust`` (``trimmed-mean``) is.
    :param config: The method's settings.
    :raises UnknownNameError: if no installed plugin offers a name.
    :raises ConfigError: if the method or the engine does not take its settings.
    :raises UnsupportedModelError: if no engine can serve the method on these modules.

    >>> model = torch.nn.Linear(4, 1)
    >>> descent = Descent(model, "upgrad", batch_dim=0)
    >>> step = descent.backward(model(torch.randn(8, 4)).square().flatten())
    >>> step.weights.shape, model.weight.grad.shape
    (torch.Size([8]), torch.Size([1, 4]))
    """

    def __init__(
        self,
        modules: nn.Module | Sequence[nn.Module],
        method: Spec,
        *,
        engine: Spec = "auto",
        on: On = "parameters",
        batch_dim: int | None = None,
        on_nonfinite: OnNonFinite = "raise",
        **config: Any,
    ) -> None:
        _check_choice("on", on, On)
        _check_choice("on_nonfinite", on_nonfinite, OnNonFinite)
        self._modules = shared_modules.checked(modules)
        prefer = preferred_kinds(is_auto(engine) and on == "parameters")
        self._method = registry.method(method, prefer=prefer, **config)
        shared_modules.move_with(self._modules, self._method)
        self._on_nonfinite, self._on = on_nonfinite, on
        self._choice = self._chosen(engine, on, batch_dim)
        shared_modules.bind(self._method, self._modules)
        self._steps = 0
        self._last_names: tuple[str, ...] | None = None

    @property
    def method(self) -> Any:
        """The weighting, aggregator or scalarizer."""
        return self._method

    @property
    def engine(self) -> Engine | None:
        """The engine; None for a scalarizer, and on features, which need none."""
        return self._choice.engine

    def backward(
        self,
        losses: Losses,
        *,
        features: Tensor | Sequence[Tensor] | None = None,
        independent: Independent | None = None,
        retain_graph: bool = False,
        scaler: GradScaler | None = None,
    ) -> Step:
        """Adds the method's update to ``.grad``, as ``torch.Tensor.backward`` adds a gradient.

        Whatever is raised on the way, and if the step is skipped, ``.grad`` and the method's state
        are as they were before.

        :param losses: A tensor of any shape, one objective per entry; a sequence of scalars; or a
            mapping from name to scalar.
        :param features: The shared representation of several tasks. Parameters past it, the
            heads', get their own plain gradient. Without it, they get the weighted one, as
            ``losses.backward(weights)`` would give them. A scalarizer makes no use of it.
        :param independent: The same objectives on another, independent batch, or a tuple of two
            such, for the methods that need a cross-gramian. With one, that is of its gradients and
            those of ``losses``; with two, of the gradients of these two. The update is the weighted
            sum of the gradients of ``losses`` in either case.
        :param retain_graph: Whether the graph can be used again.
        :param scaler: For mixed precision: multiplies the losses by its scale, so that ``.grad`` is
            what ``scaler.step`` expects. The method and the step see what they would without. An
            overflow, and a step that is skipped because of its losses, leave ``.grad`` NaN, whereby
            the scaler leaves out the update, and takes a smaller scale after it.
        :return: What the step did.
        :raises ValueError: if ``losses`` is empty, has an entry that is no scalar, or has no graph;
            if its names are others than in the step before, or in another order, and the method
            remembers the objectives; if the method needs ``independent`` batches and the right
            number of them with the same objectives is not given; if ``features`` is empty, or has a
            tensor twice or one without a graph; if ``on="features"`` and there are no features.
        :raises NonFiniteError: if a loss, a gradient or a weight is not finite, naming the
            objective and the step, which is the number of earlier calls (with
            ``on_nonfinite="raise"``).

        Two tasks on a shared trunk, whose heads get their own plain gradient:

        >>> trunk, head = torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)
        >>> descent = Descent(trunk, "mgda", on="features")
        >>> features = trunk(torch.randn(8, 4))
        >>> losses = head(features).square().mean(0)
        >>> step = descent.backward({"depth": losses[0], "normals": losses[1]}, features=features)
        >>> step.names, step.gramian.shape
        (('depth', 'normals'), torch.Size([2, 2]))

        MoDo takes its weights from two independent batches, SDMGrad from two others:

        >>> model = torch.nn.Linear(4, 3)
        >>> def losses_of_a_batch():
        ...     return model(torch.randn(8, 4)).square().mean(0)
        >>> descent = Descent(model, "modo")
        >>> step = descent.backward(losses_of_a_batch(), independent=losses_of_a_batch())
        >>> descent = Descent(model, "sdmgrad")
        >>> others = losses_of_a_batch(), losses_of_a_batch()
        >>> step = descent.backward(losses_of_a_batch(), independent=others)
        """
        call = self._call(losses, features, independent, retain_graph, scaler)
        found: Update | None = None
        try:
            for batch in (call.given, *call.others):
                call.finiteness.of_losses(batch.values(), batch)
            is_scalar = self._method.kind == "scalarizer"
            found = self._scalarized(call) if is_scalar else self._combined(call)
        except NonFiniteError:
            is_scaled = call.scale.factor is not None
            if is_scaled and (self._on_nonfinite != "raise" or _are_finite(call.values)):
                add_to_grad(*_nan_for(call.given))
            elif self._on_nonfinite != "skip":
                raise
        finally:
            self._steps += 1
        step = self._record(call, found)
        hooks.call("jd_step", step=step)
        return step

    def after_update(self, losses: Losses) -> None:
        """Tells the methods that act after the optimizer's step (FAMO) the new losses.

        :param losses: Those of the same batch, under the new parameters; a mapping in any order.
        :raises ValueError: if its names are not those of the last step.
        """
        if isinstance(self._method, ActsAfterUpdate):
            given = objectives(losses)
            if isinstance(losses, Mapping) and self._last_names is not None:
                given = in_order(given, self._last_names, "after_update")
            self._method.after_update(given.values())

    def end_epoch(self) -> None:
        """Tells the methods that have epochs (DWA) that one is over."""
        if isinstance(self._method, HasEpochs):
            self._method.end_epoch()

    def reset(self) -> None:
        """Makes a stateful method forget earlier steps."""
        if isinstance(self._method, Stateful):
            self._method.reset()
        self._last_names = None

    def parameters(self) -> Iterator[nn.Parameter]:
        """The method's trainable parameters, for the optimizer; usually none."""
        parameters: Iterator[nn.Parameter] = self._method.parameters()
        return parameters

    def state_dict(self) -> dict[str, Any]:
        """The method's state."""
        state: dict[str, Any] = self._method.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts the method's state back.

        :param state: What :meth:`state_dict` gave.
        :raises RuntimeError: if it is that of another method, or of other settings.
        """
        self._method.load_state_dict(state, strict=True)
        self._last_names = None

    def close(self) -> None:
        """Leaves the model as it was before."""
        if self.engine is not None:
            self.engine.close()

    def __repr__(self) -> str:
        return f"Descent({self._method!r}, engine={self._engine_name!r})"

    @property
    def _engine_name(self) -> str:
        return _AUTOGRAD if self.engine is None else self.engine.name

    def _chosen(self, engine: Spec, on: On, batch_dim: int | None) -> Choice:
        if on == "parameters":
            return choose(self._modules, self._method, engine, batch_dim)
        _check_on_features(self._method, engine)
        refusal = unserved(self._modules)
        if refusal is not None:
            raise UnsupportedModelError(f"on='features' refuses: {refusal}")
        return Settled(
            None, "on='features' takes one backward pass of the shared modules and needs no engine"
        )

    def _check_order(self, names: tuple[str, ...] | None) -> None:
        """Refuses other names, or another order, if the method remembers objectives by place."""
        before = self._last_names
        if names and before and names != before and len(names) == len(before):
            state = [each for each in self._method.state_dict().values() if torch.is_tensor(each)]
            if any(each.is_floating_point() and len(names) in each.shape for each in state):
                raise ValueError(
                    f"losses has the objectives {', '.join(map(repr, names))}, but the step before "
                    f"had {', '.join(map(repr, before))}, and {self._method.name} remembers them "
                    f"by their places: give the same ones in the same order, or call reset()"
                )
        self._last_names = names

    def _names(self) -> dict[int, str]:
        """What to call each parameter, by its identity; the method's own begin with its name."""
        learned = self._method.named_parameters(prefix=self._method.name)
        return shared_modules.parameter_names(self._modules) | {id(p): name for name, p in learned}

    def _weighting(self) -> Any:
        """The method, or the weighting that an aggregator was made of."""
        return self._method.weighting if isinstance(self._method, WeightedSum) else self._method

    def _trained(self) -> list[nn.Parameter]:
        return shared_modules.trained(self._modules)

    def _call(
        self,
        losses: Losses,
        features: Tensor | Sequence[Tensor] | None,
        independent: Independent | None,
        retain_graph: bool,
        scaler: GradScaler | None,
    ) -> _Call:
        """What ``backward`` was given, once it is known to be a step."""
        crossed = "cross-gramian" in self._method.needs
        if independent is not None and not crossed:
            raise ValueError(
                f"{self._method.name} makes no use of independent batches: leave them out"
            )
        given = objectives(losses)
        self._check_order(given.names if isinstance(losses, Mapping) else None)
        check_differentiable(given)
        others = independent_batches(self._weighting(), independent, given) if crossed else ()
        cut_at = [features] if isinstance(features, Tensor) else features
        if self._on == "features":
            _check_representation(given, cut_at, self._trained())
        elif cut_at is not None and self.engine is not None:
            check_features(cut_at)
        values = given.values()
        scale = LossScale(scaler, values.device)
        asked = scaler is not None or self._on_nonfinite != "propagate"
        finiteness = Finiteness(self._steps, given, self._method, self._names, asked)
        return _Call(given, others, values, cut_at, retain_graph, scale, finiteness)

    def _combined(self, call: _Call) -> Update:
        """Linearization, Gramian, method, ``Jᵀw``, ``.grad``; where one fails, nothing has changed.

        Whatever an engine refuses, it refuses before the method has seen anything of the step.
        """
        method, finiteness = self._method, call.finiteness
        shared_modules.bind(method, self._modules)
        with StateUndone(method):
            with GradientsApart(list(method.parameters())) as learned:
                lin, gramians, heads = self._linearized(call)
                with lin:
                    total = summed(gramians)
                    finiteness.of_gramian(total)
                    if self._lets_through(total):
                        return self._nothing_but_nan(call.given, total)
                    values = call.values.flatten()
                    found = update(lin, method, values, gramians=gramians, finiteness=finiteness)
            own = call.scale.of_gradients(learned.gradients)
            found = found.and_of(*heads).and_of(learned.tensors, own)
            finiteness.of_gradients(*found.without(lin.covered))
            add_to_grad(found.tensors, found.gradients)
        return found

    def _linearized(self, call: _Call) -> tuple[Linearization, Sequence[Tensor | None], Gradients]:
        """What the update is taken from, the statistics for the weights, and the heads' gradients.

        The losses are times their scale, of which the linearization shows nothing.
        """
        method, retain_graph = self._method, call.retain_graph
        given, *others = (call.scale.of_losses(batch) for batch in (call.given, *call.others))
        crossed: Crossed | None = None
        if others:
            _check_reaches((given, *others), self._trained())
            pair = (given, *others)[-2:]
            found = self._served(call, lambda engine: cross_gramian(engine, *pair))
            crossed = Crossed(*map(call.scale.out_of_product, found))
        cut: Cut | None = None
        if call.features is not None:
            cut = cut_losses(given.tensors, call.features, self._trained(), retain_graph)

        def served_by(engine: Engine | None) -> tuple[Linearization, Sequence[Tensor | None]]:
            lin: Linearization
            if engine is None:
                assert cut is not None
                lin = OnFeatures(cut, self._trained(), retain_graph)
            else:
                lin = linearized(engine, method, given.tensors, cut, retain_graph)
            lin = call.scale.out_of(lin)
            if crossed is not None:
                lin = WithCrossGramian(lin, crossed, is_of_losses=len(others) == 1)
            return lin, lin.gramians()

        lin, gramians = self._served(call, served_by)
        return lin, gramians, ([], []) if cut is None else (cut.head_params, cut.head_gradients)

    def _scalarized(self, call: _Call) -> Update:
        """The step of a scalarizer, by autograd's own backward pass, so that all its hooks run."""
        leaf = call.values.clone().requires_grad_()
        leaves = [*leaves_of(call.given.tensors), *self._method.parameters()]
        factor = 1.0 if call.scale.factor is None else call.scale.factor
        with GradientsUndone(leaves), StateUndone(self._method):
            (self._method(leaf) * factor).backward()
            weights = torch.zeros_like(call.values) if leaf.grad is None else leaf.grad
            starts = _like(call.given, weights)
            torch.autograd.backward(call.given.tensors, starts, retain_graph=call.retain_graph)
            call.finiteness.of_gradients(leaves, [leaf.grad for leaf in leaves], weights)
        return Update((), (), weights.reshape(-1) / factor, None)

    def _served(self, call: _Call, take: Callable[[Any], _T]) -> _T:
        """What the engine gives, or the next one where it refuses."""
        while True:
            try:
                self._choice.fitting(call.given, call.features)
                return take(self.engine)
            except UnsupportedModelError as refusal:
                self._choice.replace(refusal)

    def _lets_through(self, gramian: Tensor | None) -> bool:
        """Whether the method may not see this Gramian, which is not finite, lest it remember it."""
        if self._on_nonfinite != "propagate" or gramian is None:
            return False
        return not self._weighting().claims.get("robust") and not _are_finite(gramian.diagonal())

    def _nothing_but_nan(self, given: Objectives, gramian: Tensor | None) -> Update:
        add_to_grad(*_nan_for(given))
        weights = torch.full_like(given.values().reshape(-1), math.nan)
        return Update((), (), weights, gramian)

    def _record(self, call: _Call, found: Update | None) -> Step:
        return Step(
            names=call.given.names,
            skipped=found is None,
            losses=call.values.reshape(-1),
            weights=None if found is None else found.weights,
            gramian=None if found is None else found.gramian,
            engine=self._engine_name,
            reason=self._choice.reason,
        )


@dataclass(frozen=True)
class _Call:
    """What ``backward`` was given."""

    given: Objectives
    others: tuple[Objectives, ...]
    """The same objectives on independent batches."""
    values: Tensor
    features: Sequence[Tensor] | None
    retain_graph: bool
    scale: LossScale
    finiteness: Finiteness


def _are_finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())


def _nan_for(given: Objectives) -> Gradients:
    leaves = leaves_of(given.tensors)
    return leaves, [torch.full_like(leaf, math.nan) for leaf in leaves]


def _check_choice(argument: str, given: object, choices: Any) -> None:
    if given not in get_args(choices):
        allowed = ", ".join(map(repr, get_args(choices)))
        raise ConfigError(f"{argument} = {given!r} was given, but it is one of {allowed}")


def _check_on_features(method: Any, engine: Spec) -> None:
    """Refuses what aggregation on the representation cannot serve."""
    reason, name = None, method.name
    if method.kind == "scalarizer":
        reason = f"{name} is a scalarizer, which looks at no gradients"
    elif "cross-gramian" in method.needs:
        reason = f"{name} compares batches, whose features have nothing in common"
    elif treats_groups(method):
        reason = f"{name} divides parameters into groups"
    elif not is_auto(engine):
        reason = "no engine is needed where no Jacobian of parameters is: leave engine out"
    if reason is not None:
        raise ConfigError(f"on='features' was given, but {reason}")


def _check_representation(
    given: Objectives, features: Sequence[Tensor] | None, shared: Sequence[Tensor]
) -> None:
    """Refuses features below which one backward pass does not give the trunk's gradients."""
    if not features:
        raise ValueError(
            "on='features' needs the shared representation: backward(losses, features=…)"
        )
    check_features(features)
    if bypassing(as_scalars(given.tensors), features, shared):
        raise UnsupportedModelError(
            "a loss depends on a shared parameter past the features, too (tied weights), which "
            "on='features' would miss: use on='parameters'"
        )
    if nested(features):
        raise UnsupportedModelError(
            "a feature was computed from another, whose part in the losses on='features' would "
            "count twice: give only the last, or use on='parameters'"
        )


def _check_reaches(batches: Sequence[Objectives], parameters: Sequence[Tensor]) -> None:
    for batch in batches:
        if len(without(leaves := leaves_of(batch.tensors), parameters)) == len(leaves):
            raise ValueError(
                "the losses, or those of an independent batch, depend on no parameter of the given "
                "modules that requires gradients: are these the modules that computed them?"
            )


def _like(given: Objectives, weights: Tensor) -> list[Tensor]:
    parts = torch.split(weights.reshape(-1), [tensor.numel() for tensor in given.tensors])
    return [part.reshape(t.shape).to(t.dtype) for part, t in zip(parts, given.tensors, strict=True)]
