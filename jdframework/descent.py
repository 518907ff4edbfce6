"""The one object of a training loop: a method, and the engine that serves it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from jdframework import hooks, registry, shared_modules
from jdframework.accumulation import add_to_grad
from jdframework.autograd_graph import leaves_of, without
from jdframework.bases import WeightedSum
from jdframework.combination import weights_of
from jdframework.engine_choice import Choice, Settled, choose, is_auto, preferred_kinds
from jdframework.errors import ConfigError, NonFiniteError, UnsupportedModelError
from jdframework.finiteness import Finiteness
from jdframework.independent import Independent, cross_gramian, independent_batches
from jdframework.loss_scale import LossScale
from jdframework.multitask import check_features, weighted_gradients
from jdframework.objectives import (
    Losses,
    Objectives,
    check_differentiable,
    in_order,
    objectives,
)
from jdframework.outcome import Check, Outcome
from jdframework.protocols import ActsAfterUpdate, Engine, HasEpochs, Stateful, TreatsGroups
from jdframework.registry import Spec
from jdframework.representation import Representation
from jdframework.step import Step
from jdframework.undoing import GradientsUndone, StateUndone

OnNonFinite = Literal["raise", "skip", "propagate"]
On = Literal["parameters", "features"]

_AUTOGRAD: Final = "autograd"


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
        self._on_nonfinite = on_nonfinite
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
        """The engine; None for a scalarizer."""
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
        if independent is not None and "cross-gramian" not in self._method.needs:
            raise ValueError(
                f"{self._method.name} makes no use of independent batches: leave them out"
            )
        given = objectives(losses)
        self._check_order(given.names if isinstance(losses, Mapping) else None)
        check_differentiable(given)
        values = given.values()
        cut_at = [features] if isinstance(features, Tensor) else features
        scale = None if scaler is None else LossScale(scaler, values.device)
        asked = scale is not None or self._on_nonfinite != "propagate"
        finiteness = Finiteness(self._steps, given, self._method, self._names, asked)
        call = _Call(finiteness, cut_at, retain_graph, scale)
        outcome: Outcome | None = None
        try:
            finiteness.of_losses(values)
            if self.engine is None:
                outcome = self._scalarized(call, values)
            else:
                if cut_at is not None and not isinstance(self.engine, Representation):
                    check_features(cut_at)
                outcome = self._served(call, independent)
        except NonFiniteError:
            if scale is not None and (self._on_nonfinite != "raise" or _are_finite(values)):
                _fill_with_nan(given)
            elif self._on_nonfinite != "skip":
                raise
        except _UnansweredError as found:
            _fill_with_nan(given)
            outcome = Outcome(torch.full_like(values.reshape(-1), math.nan), found.gramian)
        finally:
            self._steps += 1
        step = self._record(given, values, outcome)
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
        return Settled(
            cast(Engine, Representation(*self._modules)),
            "on='features' takes one backward pass of the shared modules and needs no engine",
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

    def _scalarized(self, call: _Call, values: Tensor) -> Outcome:
        given = call.finiteness.given
        leaf = values.clone().requires_grad_()
        leaves = [*leaves_of(given.tensors), *self._method.parameters()]
        factor = 1.0 if call.scale is None else call.scale.factor
        with GradientsUndone(leaves), StateUndone(self._method):
            (self._method(leaf) * factor).backward()
            weights = torch.zeros_like(values) if leaf.grad is None else leaf.grad
            starts = _like(given, weights)
            torch.autograd.backward(given.tensors, starts, retain_graph=call.retain_graph)
            call.finiteness.of_gradients(leaves, [leaf.grad for leaf in leaves], weights)
        return Outcome(weights.reshape(-1) / factor, None)

    def _served(self, call: _Call, independent: Independent | None) -> Outcome:
        given = call.finiteness.given
        others: tuple[Objectives, ...] = ()
        if "cross-gramian" in self._method.needs:
            others = independent_batches(self._weighting(), independent, given)
        for batch in others:
            call.finiteness.of_losses(batch.values(), batch)
        shared_modules.bind(self._method, self._modules)
        # A method that learns adds to its own gradients, before the engine is done.
        learned = list(self._method.parameters())
        while True:
            try:
                self._choice.fitting(given, call.features)
                with (
                    GradientsUndone(learned),
                    StateUndone(self._method),
                    call.finiteness.of_answers(),
                ):
                    return self._scaled(call, others)
            except UnsupportedModelError as refusal:
                self._choice.replace(refusal)

    def _scaled(self, call: _Call, others: tuple[Objectives, ...]) -> Outcome:
        """The step on the losses times their scale, of which the method sees nothing."""
        scale = call.scale
        if scale is None:
            return self._taken(call, others)
        given = scale.scaled(call.finiteness.given)
        scaled = replace(call, finiteness=replace(call.finiteness, given=given))
        with scale.hidden_from(self._method, len(self._trained())):
            return scale.unscaled(self._taken(scaled, tuple(map(scale.scaled, others))))

    def _taken(self, call: _Call, others: tuple[Objectives, ...]) -> Outcome:
        return self._crossed(call, others) if others else self._descended(call)

    def _descended(self, call: _Call) -> Outcome:
        engine = cast(Engine, self.engine)
        # A trunk's gradient may not be finite where that of its features is.
        known = list if isinstance(engine, Representation) else self._trained
        with call.finiteness.of_updates(known):
            return engine.update(
                call.finiteness.given.as_engine_input(),
                self._method,
                features=call.features,
                retain_graph=call.retain_graph,
                check=self._checker(call),
            )

    def _crossed(self, call: _Call, others: tuple[Objectives, ...]) -> Outcome:
        """The update with weights that come from the cross-gramian of two batches."""
        given, shared = call.finiteness.given, self._trained()
        for batch in (given, *others):
            _check_reaches(batch, shared)
        first, second = (given, *others)[-2:]
        cross, gramian = cross_gramian(cast(Engine, self.engine), first, second)
        self._checker(call)(cross)
        weights = weights_of(self._weighting(), cross, (), given.values())
        targets, found = weighted_gradients(
            given.tensors,
            weights,
            features=call.features,
            shared_params=shared,
            retain_graph=call.retain_graph,
        )
        call.finiteness.of_gradients(targets, found)
        add_to_grad(targets, found)
        return Outcome(weights, gramian if first is given else None)

    def _checker(self, call: _Call) -> Check:
        """Sees the Gramian before the method does."""

        def stop(gramian: Tensor) -> None:
            if not self._weighting().claims.get("robust") and not _are_finite(gramian.diagonal()):
                raise _UnansweredError(gramian)

        return call.finiteness.of_gramian if call.finiteness.asked else stop

    def _record(self, given: Objectives, values: Tensor, outcome: Outcome | None) -> Step:
        return Step(
            names=given.names,
            skipped=outcome is None,
            losses=values.reshape(-1),
            weights=None if outcome is None else outcome.weights,
            gramian=None if outcome is None else outcome.gramian,
            engine=self._engine_name,
            reason=self._choice.reason,
        )


@dataclass(frozen=True)
class _Call:
    """What ``backward`` was given."""

    finiteness: Finiteness
    features: Sequence[Tensor] | None
    retain_graph: bool
    scale: LossScale | None


class _UnansweredError(Exception):
    """Stops a step before a method is given what is not finite, which it might remember.

    :param gramian: Of which a diagonal entry is not finite.
    """

    def __init__(self, gramian: Tensor) -> None:
        super().__init__()
        self.gramian = gramian


def _are_finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())


def _fill_with_nan(given: Objectives) -> None:
    leaves = leaves_of(given.tensors)
    add_to_grad(leaves, [torch.full_like(leaf, math.nan) for leaf in leaves])


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
    elif isinstance(method, TreatsGroups):
        reason = f"{name} divides parameters into groups"
    elif not is_auto(engine):
        reason = "no engine is needed where no Jacobian of parameters is: leave engine out"
    if reason is not None:
        raise ConfigError(f"on='features' was given, but {reason}")


def _check_reaches(batch: Objectives, parameters: Sequence[Tensor]) -> None:
    if len(without(leaves := leaves_of(batch.tensors), parameters)) == len(leaves):
        raise ValueError(
            "the losses, or those of an independent batch, depend on no parameter of the given "
            "modules that requires gradients: are these the modules that computed them?"
        )


def _like(given: Objectives, weights: Tensor) -> list[Tensor]:
    parts = torch.split(weights.reshape(-1), [tensor.numel() for tensor in given.tensors])
    return [part.reshape(t.shape).to(t.dtype) for part, t in zip(parts, given.tensors, strict=True)]
