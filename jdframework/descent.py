"""The one object of a training loop: a method, and the engine that serves it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, cast, get_args

import torch
from torch import Tensor, nn

from jdframework import hooks, registry
from jdframework.accumulation import add_to_grad
from jdframework.autograd_graph import leaves_of, without
from jdframework.bases import WeightedSum
from jdframework.combination import weights_of
from jdframework.engine_choice import Automatic, required
from jdframework.errors import ConfigError, NonFiniteError, UnsupportedModelError
from jdframework.finiteness import Finiteness
from jdframework.independent import Independent, cross_gramian, independent_batches
from jdframework.multitask import weighted_gradients
from jdframework.names import Kind
from jdframework.objectives import Losses, Objectives, check_differentiable, objectives
from jdframework.outcome import Outcome
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
    cheaper way to the same step, unless an engine is named.

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
        ``"skip"`` the step and leave ``.grad`` as it is, or ``"propagate"``.
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
        self._modules = _checked_modules(modules)
        self._method = registry.method(method, prefer=_preferred_kinds(engine, on), **config)
        _move_with(self._modules, self._method)
        self._on_nonfinite = on_nonfinite
        self._automatic: Automatic | None = None
        self._engine = self._engine_for(engine, on, batch_dim)
        self._bind()
        self._steps = 0

    @property
    def method(self) -> Any:
        """The weighting, aggregator or scalarizer."""
        return self._method

    @property
    def engine(self) -> Engine | None:
        """The engine; None for a scalarizer."""
        return self._engine

    def backward(
        self,
        losses: Losses,
        *,
        features: Tensor | Sequence[Tensor] | None = None,
        independent: Independent | None = None,
        retain_graph: bool = False,
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
        :return: What the step did.
        :raises ValueError: if ``losses`` is empty, has an entry that is no scalar, or has no graph;
            if the method needs ``independent`` batches and the right number of them with the same
            objectives is not given; if ``on="features"`` and there are no features.
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
        check_differentiable(given)
        values = given.values()
        finiteness = Finiteness(
            self._steps,
            given,
            self._method,
            self._names,
            asked=self._on_nonfinite != "propagate",
        )
        outcome: Outcome | None = None
        try:
            finiteness.of_losses(values)
            if self._engine is None:
                outcome = self._scalarized(finiteness, values, retain_graph)
            else:
                outcome = self._served(finiteness, features, independent, retain_graph)
        except NonFiniteError:
            if self._on_nonfinite != "skip":
                raise
        finally:
            self._steps += 1
        step = self._record(given, values, outcome)
        hooks.call("jd_step", step=step)
        return step

    def after_update(self, losses: Losses) -> None:
        """Tells the methods that act after the optimizer's step (FAMO) the new losses.

        :param losses: Those of the same batch, under the new parameters.
        """
        if isinstance(self._method, ActsAfterUpdate):
            self._method.after_update(objectives(losses).values())

    def end_epoch(self) -> None:
        """Tells the methods that have epochs (DWA) that one is over."""
        if isinstance(self._method, HasEpochs):
            self._method.end_epoch()

    def reset(self) -> None:
        """Makes a stateful method forget earlier steps."""
        if isinstance(self._method, Stateful):
            self._method.reset()

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

    def close(self) -> None:
        """Leaves the model as it was before."""
        if self._engine is not None:
            self._engine.close()

    def __repr__(self) -> str:
        engine = _AUTOGRAD if self._engine is None else self._engine.name
        return f"Descent({self._method!r}, engine={engine!r})"

    def _engine_for(self, engine: Spec, on: On, batch_dim: int | None) -> Engine | None:
        if on == "features":
            _check_on_features(self._method, engine)
            return cast(Engine, Representation(*self._modules))
        if self._method.kind == "scalarizer":
            return None
        if _is_auto(engine):
            self._automatic = Automatic(self._modules, self._method, batch_dim)
            return self._automatic.engine
        if isinstance(engine, str | Mapping):
            found = registry.engine(engine, *self._modules, **_batch_dim_for(engine, batch_dim))
        else:
            found = registry.engine(engine)
        lacking = required(self._method) - found.capabilities
        if lacking:
            raise UnsupportedModelError(
                f"the method {self._method.name!r} needs the {' and the '.join(sorted(lacking))}, "
                f"which the engine {found.name!r} does not form: use engine='auto'"
            )
        return found

    def _bind(self) -> None:
        """Tells a method that treats groups of parameters apart which there are now."""
        if isinstance(self._method, TreatsGroups):
            names = _parameter_names(self._modules)
            trained = [names[id(parameter)] for parameter in self._trained()]
            self._method.bind(trained, list(names.values()))

    def _names(self) -> dict[int, str]:
        """What to call each parameter, by its identity; the method's own begin with its name."""
        learned = self._method.named_parameters(prefix=self._method.name)
        return _parameter_names(self._modules) | {id(p): name for name, p in learned}

    def _weighting(self) -> Any:
        """The method, or the weighting that an aggregator was made of."""
        return self._method.weighting if isinstance(self._method, WeightedSum) else self._method

    def _trained(self) -> list[nn.Parameter]:
        """The modules' parameters that require gradients now, as engines have them."""
        found = (p for module in self._modules for p in module.parameters() if p.requires_grad)
        return list(dict.fromkeys(found))

    def _scalarized(self, finiteness: Finiteness, values: Tensor, retain_graph: bool) -> Outcome:
        given = finiteness.given
        leaf = values.clone().requires_grad_()
        leaves = [*leaves_of(given.tensors), *self._method.parameters()]
        with GradientsUndone(leaves), StateUndone(self._method):
            self._method(leaf).backward()
            weights = torch.zeros_like(values) if leaf.grad is None else leaf.grad
            starts = _like(given, weights)
            torch.autograd.backward(given.tensors, starts, retain_graph=retain_graph)
            finiteness.of_gradients(leaves, [leaf.grad for leaf in leaves], weights)
        return Outcome(weights.reshape(-1), None)

    def _served(
        self,
        finiteness: Finiteness,
        features: Tensor | Sequence[Tensor] | None,
        independent: Independent | None,
        retain_graph: bool,
    ) -> Outcome:
        given = finiteness.given
        cut_at = [features] if isinstance(features, Tensor) else features
        others: tuple[Objectives, ...] = ()
        if "cross-gramian" in self._method.needs:
            others = independent_batches(self._weighting(), independent, given)
        self._bind()
        # A method that learns adds to its own gradients, before the engine is done.
        learned = list(self._method.parameters())
        while True:
            try:
                with GradientsUndone(learned), StateUndone(self._method), finiteness.of_answers():
                    if others:
                        return self._crossed(finiteness, others, cut_at, retain_graph)
                    return self._descended(finiteness, cut_at, retain_graph)
            except UnsupportedModelError as refusal:
                if self._automatic is None:
                    raise
                self._engine = self._automatic.replace(refusal)

    def _descended(
        self, finiteness: Finiteness, features: Sequence[Tensor] | None, retain_graph: bool
    ) -> Outcome:
        engine = cast(Engine, self._engine)
        # A trunk's gradient may not be finite where that of its features is.
        known = list if isinstance(engine, Representation) else self._trained
        with finiteness.of_updates(known):
            return engine.update(
                finiteness.given.as_engine_input(),
                self._method,
                features=features,
                retain_graph=retain_graph,
                check=finiteness.of_gramian if finiteness.asked else None,
            )

    def _crossed(
        self,
        finiteness: Finiteness,
        others: tuple[Objectives, ...],
        features: Sequence[Tensor] | None,
        retain_graph: bool,
    ) -> Outcome:
        """The update with weights that come from the cross-gramian of two batches."""
        given, shared = finiteness.given, self._trained()
        for batch in (given, *others):
            _check_reaches(batch, shared)
            finiteness.of_losses(batch.values(), batch)
        first, second = (given, *others)[-2:]
        cross, gramian = cross_gramian(cast(Engine, self._engine), first, second)
        finiteness.of_gramian(cross)
        weights = weights_of(self._weighting(), cross, (), given.values())
        targets, found = weighted_gradients(
            given.tensors,
            weights,
            features=features,
            shared_params=shared,
            retain_graph=retain_graph,
        )
        finiteness.of_gradients(targets, found)
        add_to_grad(targets, found)
        return Outcome(weights, gramian if first is given else None)

    def _record(self, given: Objectives, values: Tensor, outcome: Outcome | None) -> Step:
        return Step(
            names=given.names,
            skipped=outcome is None,
            losses=values.reshape(-1),
            weights=None if outcome is None else outcome.weights,
            gramian=None if outcome is None else outcome.gramian,
            engine=_AUTOGRAD if self._engine is None else self._engine.name,
        )


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
    elif not _is_auto(engine):
        reason = "no engine is needed where no Jacobian of parameters is: leave engine out"
    if reason is not None:
        raise ConfigError(f"on='features' was given, but {reason}")


def _is_auto(engine: Spec) -> bool:
    return isinstance(engine, str) and engine == "auto"


def _preferred_kinds(engine: Spec, on: On) -> tuple[Kind, ...]:
    if _is_auto(engine) and on == "parameters":
        return ("scalarizer", "weighting", "aggregator")
    return ("weighting", "aggregator", "scalarizer")


def _checked_modules(modules: nn.Module | Sequence[nn.Module]) -> tuple[nn.Module, ...]:
    found: tuple[Any, ...] = (modules,)
    if isinstance(modules, Iterable) and not isinstance(modules, nn.Module):
        found = tuple(modules)
    if not found or not all(isinstance(module, nn.Module) for module in found):
        raise ConfigError(
            f"modules must be a torch.nn.Module or a sequence of them, not {modules!r}"
        )
    return found


def _parameter_names(modules: Sequence[nn.Module]) -> dict[int, str]:
    """By identity: the names of one module's parameters, or with the module's position before."""
    names: dict[int, str] = {}
    for position, module in enumerate(modules):
        prefix = f"{position}." if len(modules) > 1 else ""
        for name, parameter in module.named_parameters():
            names.setdefault(id(parameter), prefix + name)
    return names


def _check_reaches(batch: Objectives, parameters: Sequence[Tensor]) -> None:
    if len(without(leaves := leaves_of(batch.tensors), parameters)) == len(leaves):
        raise ValueError(
            "the losses, or those of an independent batch, depend on no parameter of the given "
            "modules that requires gradients: are these the modules that computed them?"
        )


def _move_with(modules: Sequence[nn.Module], method: nn.Module) -> None:
    parameter = next((p for module in modules for p in module.parameters()), None)
    if parameter is not None:
        method.to(parameter.device)


def _batch_dim_for(engine: str | Mapping[str, Any], batch_dim: int | None) -> dict[str, Any]:
    if not isinstance(engine, str) and "batch_dim" in engine:
        return {}
    return {"batch_dim": batch_dim}


def _like(given: Objectives, weights: Tensor) -> list[Tensor]:
    parts = torch.split(weights.reshape(-1), [tensor.numel() for tensor in given.tensors])
    return [part.reshape(t.shape).to(t.dtype) for part, t in zip(parts, given.tensors, strict=True)]
