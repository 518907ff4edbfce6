"""Which engine serves a method on a model, and why.

What decides, in this order: what the method needs (the Gramian, or rows of the Jacobian) and what
an engine forms; the modules, and then the graph of the losses, which an engine may refuse; the
memory that it would hold, against what is free on the device; and last its cost.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from torch import Tensor, nn

from jdframework import hooks, registry
from jdframework.autograd import memory
from jdframework.autograd.graph import graph_of
from jdframework.autograd.shared_modules import trained
from jdframework.descent.engine_requirements import WRITTEN, lacks, required
from jdframework.descent.missing_engines import missing_engines, warn_of_missing
from jdframework.errors import ConfigError, JDError, UnsupportedModelError
from jdframework.linearization import Forecast
from jdframework.linearization.objectives import Objectives
from jdframework.protocols import Engine
from jdframework.protocols.names import Kind
from jdframework.registry import Spec

GraphKind: TypeAlias = tuple[frozenset[str], int]

AUTOGRAD: Final = "autograd"
"""What a step runs on that needs no engine."""
_MOST_REFUSALS: Final = 3
"""How many steps an engine may refuse that has served none, until it is given up."""
_USABLE: Final = 0.9
"""The share of what is free that an engine may hold; the backward pass itself takes some, too."""


class FixedEngine:
    """An engine that was asked for by name, or none where none is needed: never changed.

    :param engine: What was asked for; None where none is needed.
    :param reason: Why, in a sentence.
    """

    def __init__(self, engine: Engine | None, reason: str) -> None:
        self.engine, self.reason = engine, reason
        self.taken = AUTOGRAD if engine is None else engine.name
        """The name of what the last step ran on."""
        self.passed_over: dict[str, str] = {}

    def serving(self, given: Objectives, features: Sequence[Tensor] | None) -> Engine | None:
        """The engine that was asked for, however much memory it takes."""
        return self.engine

    def refused(
        self,
        refusal: UnsupportedModelError,
        given: Objectives,
        features: Sequence[Tensor] | None,
    ) -> None:
        """Raises the refusal: there is no other engine.

        :raises UnsupportedModelError: the refusal.
        """
        raise refusal

    def served(self) -> None:
        """Does nothing: the engine stays."""


class AutomaticEngine:
    """The cheapest installed engine that serves a method on a model, and then the next ones.

    Engines refuse a model when they are made, or a graph at a step, once they have seen it; or they
    would hold more than is free. The next cheapest one then takes over: for good, where the model
    is refused or memory is short, and otherwise for graphs of that kind, so that one odd batch does
    not make all later steps slower.

    :param modules: The modules whose parameters the objectives share.
    :param method: A weighting or an aggregator.
    :param batch_dim: The dimension of independent instances, if each is an objective.
    :param warn: Whether users and observers are told of each change of the engine.
    :raises UnknownNameError: if no engine is installed.
    :raises UnsupportedModelError: if none can serve, with each one's reason.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        method: Any,
        batch_dim: int | None,
        *,
        warn: bool = True,
    ) -> None:
        self._modules, self._method, self._batch_dim = modules, method, batch_dim
        self._warns = warn
        self.passed_over: dict[str, str] = {}
        """The engines that were looked at and not taken, and why."""
        self._refusals: dict[str, str] = {}
        self._most_objectives = 0
        self._remaining = _by_cost(self.passed_over)
        self.engine = self._next()
        self._missing = missing_engines(self.engine, method)
        if warn and self._missing:
            warn_of_missing(self._missing, self.engine.name)
        self.taken = self.engine.name
        """The name of what the last step ran on."""
        self.reason = self._reason = self._reason_for(self.engine)
        self._detours: dict[GraphKind, Engine] = {}
        """What serves the kinds of graphs that the engine has refused."""
        self._detour_reasons: dict[str, str] = {}
        self._fallbacks: dict[str, Engine] = {}
        self._serving = self.engine
        self._steps_served = self._steps_refused = 0

    def serving(self, given: Objectives, features: Sequence[Tensor] | None) -> Engine:
        """The engine for these losses, which takes their graph, and for which there is room.

        What it would hold has to be free. It is looked at where there are more objectives than ever
        before.

        :param given: The losses.
        :param features: The shared representation, if there is one.
        :raises UnsupportedModelError: if no engine can serve, with each one's reason.
        """
        detour = self._detours.get(_kind_of(given)) if self._detours else None
        while detour is None and given.m > self._most_objectives:
            try:
                foreseen = forecast(self.engine, self._method, given, features)
            except UnsupportedModelError as refusal:
                self._serving = self.engine
                self.refused(refusal, given, features)
                detour = self._detours.get(_kind_of(given))
                continue
            excess = self._excess_of(foreseen, given)
            if excess is not None:
                self._make_room(excess, given, features)
            elif foreseen.dearer and (cheaper := self._forming_rows(given, features)) is not None:
                self._pass_over(self.engine.name, foreseen.dearer)
                detour = self._detours[_kind_of(given)] = cheaper
                self._detour_reasons[cheaper.name] = self._reason_for(cheaper)
            self._most_objectives = given.m
        self._serving = self.engine if detour is None else detour
        self.taken = self._serving.name
        self.reason = self._reason if detour is None else self._detour_reasons[self.taken]
        return self._serving

    def refused(
        self,
        refusal: UnsupportedModelError,
        given: Objectives,
        features: Sequence[Tensor] | None,
    ) -> None:
        """Goes on with the next engine, for graphs of this kind.

        :param refusal: Why the engine that was to serve cannot.
        :param given: The losses.
        :param features: The shared representation, if there is one.
        :raises UnsupportedModelError: if there is no other, with each one's reason.
        """
        name, why = self._serving.name, refusal.reason
        known = name in self.passed_over
        self._pass_over(name, why)
        successor = self._after(self._serving, given, features)
        self._detours[_kind_of(given)] = successor
        self._detour_reasons[successor.name] = self._reason_for(successor)
        if not known:
            self._tell(name, why)
            self._warn(name, why, successor)

    def served(self) -> None:
        """Counts a step that was served, and gives up an engine that has refused every one."""
        if self._serving is self.engine:
            self._steps_served += 1
            return
        self._steps_refused += 1
        if not self._steps_served and self._steps_refused >= _MOST_REFUSALS:
            self.engine.close()
            position = [cls.name for cls in self._remaining].index(self._serving.name)
            self.engine, self._remaining = self._serving, self._remaining[position + 1 :]
            self._reason = self.reason
            self._detours.clear()

    def _next(self) -> Engine:
        while self._remaining:
            engine = self._made(self._remaining.pop(0))
            if engine is not None:
                return engine
        raise self._none_left()

    def _after(
        self, engine: Engine, given: Objectives, features: Sequence[Tensor] | None
    ) -> Engine:
        """The next engine that there is room for, or the next one; each keeps its place."""
        names = [cls.name for cls in self._remaining]
        start = names.index(engine.name) + 1 if engine.name in names else 0
        first: Engine | None = None
        for other, fits in self._others(self._remaining[start:], given, features):
            if fits:
                return other
            first = first or other
        if first is None:
            raise self._none_left()
        return first

    def _forming_rows(self, given: Objectives, features: Sequence[Tensor] | None) -> Engine | None:
        """The next engine that forms the Jacobian and has room for it; None if there is none."""
        forming = [cls for cls in self._remaining if "jacobian" in cls.capabilities]
        others = self._others(forming, given, features)
        return next((other for other, fits in others if fits), None)

    def _others(
        self, classes: Sequence[Any], given: Objectives, features: Sequence[Tensor] | None
    ) -> Iterator[tuple[Engine, bool]]:
        """The engines of some classes that do not refuse the losses, and whether each has room."""
        for cls in classes:
            made = self._fallbacks.get(cls.name) or self._made(cls)
            if made is None:
                continue
            self._fallbacks[cls.name] = made
            try:
                fits = self._excess(made, given, features) is None
            except UnsupportedModelError as refusal:
                self._pass_over(cls.name, refusal.reason)
            else:
                yield made, fits

    def _none_left(self) -> UnsupportedModelError:
        """Each engine's reason on a line of its own; one that several have is said once."""
        names: dict[str, list[str]] = {}
        for name, why in self.passed_over.items():
            names.setdefault(why, []).append(name)
        if len(names) == 1:
            return UnsupportedModelError(f"{next(iter(names))} (no installed engine can serve it)")
        lines = "".join(f"\n- {' and '.join(those)}: {why}" for why, those in names.items())
        return UnsupportedModelError(
            f"no installed engine can serve {self._method.name!r} on this model:{lines}"
        )

    def _made(self, cls: Any) -> Engine | None:
        """An engine of the class; None if it cannot serve, which is noted."""
        lacking = required(self._method) - cls.capabilities
        if lacking:
            self.passed_over[cls.name] = lacks(self._method, lacking)
            return None
        try:
            return registry.engine(cls.name, *self._modules, batch_dim=self._batch_dim)
        except UnsupportedModelError as error:
            self._pass_over(cls.name, error.reason)
            return None

    def _make_room(self, excess: str, given: Objectives, features: Sequence[Tensor] | None) -> None:
        """Goes on with the first engine that holds no more than is free, if there is one."""
        for position, cls in enumerate(self._remaining):
            smaller = self._made(cls)
            if smaller is None:
                continue
            try:
                fits = self._excess(smaller, given, features) is None
            except UnsupportedModelError as refusal:
                self._pass_over(cls.name, refusal.reason)
                fits = False
            if fits:
                self.engine.close()
                self.passed_over[self.engine.name] = excess
                self._refusals[self.engine.name] = f"{self.engine.name} {excess}"
                self._tell(self.engine.name, excess)
                self.engine, self._remaining = smaller, self._remaining[position + 1 :]
                self._reason = self._reason_for(smaller)
                return
            smaller.close()
        self._reason = (
            f"{self._reason_for(self.engine)}; it {excess}; no other installed engine takes less"
        )

    def _excess(
        self, engine: Engine, given: Objectives, features: Sequence[Tensor] | None
    ) -> str | None:
        """What the engine would hold beyond what is free, as a sentence; None if it fits."""
        return self._excess_of(forecast(engine, self._method, given, features), given)

    def _excess_of(self, foreseen: Forecast, given: Objectives) -> str | None:
        needed = foreseen.memory
        free = free_for(self._modules)
        if needed is None or free is None or needed <= free * _USABLE:
            return None
        return (
            f"would hold {memory.in_words(needed)} for {given.m} objectives, but "
            f"{memory.in_words(free)} are free, of which {_USABLE:.0%} are taken at most"
        )

    def _pass_over(self, name: str, why: str) -> None:
        self.passed_over[name] = why
        self._refusals[name] = f"{name}: {why}"

    def _tell(self, name: str, why: str) -> None:
        if self._warns:
            hooks.call("jd_fallback", name=name, reason=why)

    def _warn(self, name: str, why: str, successor: Engine) -> None:
        """Says once that a step takes longer than it would, and why."""
        if self._warns:
            warnings.warn(
                f"{name} does not serve this step, and {successor.name} does, which may take much "
                f"longer: {why}",
                stacklevel=2,
            )

    def _reason_for(self, engine: Engine) -> str:
        (what,) = required(self._method)
        said = (
            f"{self._method.name} needs the {WRITTEN[what]}, and {engine.name} is the "
            f"cheapest engine that can form it here"
        )
        refusals = [why for name, why in self._refusals.items() if name != engine.name]
        refusals += [f"{known['name']} is not installed" for known in self._missing]
        return f"{said}: {'; '.join(refusals)}" if refusals else said


Choice = AutomaticEngine | FixedEngine


def choose(
    modules: Sequence[nn.Module],
    method: Any,
    engine: Spec,
    batch_dim: int | None,
    *,
    warn: bool = True,
) -> Choice:
    """The engine for a method.

    :param modules: The modules whose parameters the objectives share.
    :param method: A weighting, an aggregator or a scalarizer.
    :param engine: A spec, or ``"auto"``.
    :param batch_dim: The dimension of independent instances, if each is an objective.
    :param warn: Whether users and observers are told of each change of the engine.
    :raises UnsupportedModelError: if it cannot serve, or none can.
    """
    if method.kind == "scalarizer":
        return FixedEngine(
            None, f"{method.name} is a scalarizer: one backward pass is all it takes"
        )
    if is_auto(engine):
        return AutomaticEngine(modules, method, batch_dim, warn=warn)
    if isinstance(engine, str | Mapping):
        found = registry.engine(engine, *modules, **_batch_dim_for(engine, batch_dim))
    else:
        found = registry.engine(engine)
    lacking = required(method) - found.capabilities
    if lacking:
        raise UnsupportedModelError(
            f"the method {method.name!r} needs the {' and the '.join(sorted(lacking))}, "
            f"which the engine {found.name!r} does not form: use engine='auto'"
        )
    return FixedEngine(found, f"{found.name} was asked for")


def forecast(
    engine: Engine, method: Any, given: Objectives, features: Sequence[Tensor] | None
) -> Forecast:
    """How an engine would go about a step.

    :param engine: Any.
    :param method: A weighting or an aggregator.
    :param given: The losses.
    :param features: The shared representation, if there is one.
    """
    return engine.forecast(given.as_engine_input(), method, features=features)


def free_for(modules: Sequence[nn.Module]) -> int | None:
    """The bytes that are free where the parameters lie; None if the system does not tell.

    :param modules: The modules whose parameters the objectives share.
    """
    parameter = next(iter(trained(modules)), None)
    if parameter is None:
        return None
    try:
        return memory.free_bytes(parameter.device)
    except ConfigError:
        return None


def _kind_of(given: Objectives) -> GraphKind:
    """What makes two graphs alike: the operations in them, and about as many objectives."""
    return graph_of(given.tensors).operations, given.m.bit_length()


def is_auto(engine: Spec) -> bool:
    """Whether the engine is left open."""
    return isinstance(engine, str) and engine == "auto"


def preferred_kinds(cheapest: bool) -> tuple[Kind, ...]:
    """What a name that several methods have stands for, the first kind first.

    :param cheapest: Whether a scalarizer will do, which takes no engine.
    """
    gradients: tuple[Kind, ...] = ("weighting", "aggregator")
    return ("scalarizer", *gradients) if cheapest else (*gradients, "scalarizer")


def why_not(cls: Any, method: Any, choice: Choice) -> str:
    """Why an installed engine was not taken.

    :param cls: The engine's class.
    :param method: A weighting, an aggregator or a scalarizer.
    :param choice: What was taken instead.
    """
    if choice.engine is None:
        return "not needed"
    if cls.name in choice.passed_over:
        return choice.passed_over[cls.name]
    lacking = required(method) - cls.capabilities
    if lacking:
        return lacks(method, lacking)
    if isinstance(choice, FixedEngine):
        return f"{choice.engine.name} was asked for"
    return f"costlier than {choice.taken}, which serves as well"


def installed(broken: dict[str, str]) -> list[Any]:
    """The classes of all engines that can be loaded, the cheapest first.

    :param broken: Is told the others, and what is wrong with each.
    """
    found = []
    for name in registry.available("engine"):
        try:
            found.append(registry.resolve("engine", name))
        except JDError as error:  # a broken or clashing engine must not stop the ones that work
            broken[name] = str(error)
    return sorted(found, key=lambda cls: (cls.cost, cls.name))


def _by_cost(broken: dict[str, str]) -> list[Any]:
    return installed(broken) or [registry.resolve("engine", "autojac")]


def _batch_dim_for(engine: str | Mapping[str, Any], batch_dim: int | None) -> dict[str, Any]:
    if not isinstance(engine, str) and "batch_dim" in engine:
        return {}
    return {"batch_dim": batch_dim}
