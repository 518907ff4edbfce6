"""What a step would run on, and why, without taking it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from jdframework import registry
from jdframework.autograd import memory, shared_modules
from jdframework.descent.engine_choice import (
    Choice,
    choose,
    forecast,
    free_for,
    installed,
    is_auto,
    preferred_kinds,
    why_not,
)
from jdframework.linearization import Forecast
from jdframework.linearization.features import Representation, as_features
from jdframework.linearization.objectives import (
    Losses,
    Objectives,
    check_differentiable,
    objectives,
)
from jdframework.protocols import Engine
from jdframework.registry import Spec

_WIDTH = 88
_LABEL = 12


@dataclass(frozen=True)
class Explanation:
    """The engine that serves a method on a model, and why; ``print`` shows it as a table."""

    method: str
    """The method's name."""
    engine: str
    """The engine's name; ``"autograd"`` for the single ordinary backward pass of a scalarizer."""
    mode: str
    """How the engine goes about it; empty if it does not tell."""
    reason: str
    """Why this engine, in a sentence."""
    passed_over: Mapping[str, str]
    """The other installed engines, and why each was not taken."""
    m: int
    """How many objectives there are."""
    n: int
    """How many entries the shared parameters have that require gradients."""
    jacobian_bytes: int
    """What the Jacobian ``[m, n]`` takes."""
    held_bytes: int | None
    """What the engine holds at once beyond an ordinary backward pass; None if it does not tell."""
    free_bytes: int | None
    """What is free on the parameters' device; None if the system does not tell."""
    device: str
    """Where the parameters lie."""

    def __str__(self) -> str:
        held = "" if self.held_bytes is None else f"{self.engine} holds {_size(self.held_bytes)}"
        free = "" if self.free_bytes is None else f"{_size(self.free_bytes)} free on {self.device}"
        jacobian = f"[{self.m}, {self.n}] takes {_size(self.jacobian_bytes)}"
        lines = [
            *_entry("method", self.method),
            *_entry("engine", self.engine),
            *_entry("mode", self.mode),
            *_entry("because", self.reason),
            *_entry("Jacobian", jacobian),
            *_entry("memory", ", ".join(part for part in (held, free) if part)),
        ]
        for number, (name, why) in enumerate(self.passed_over.items()):
            lines += _entry("" if number else "passed over", f"{name}: {why}")
        return "\n".join(lines)


def explain(
    model: nn.Module | Sequence[nn.Module],
    method: Spec,
    losses: Losses | Callable[[], Losses],
    *,
    batch_dim: int | None = None,
    features: Representation | None = None,
    engine: Spec = "auto",
    **config: Any,
) -> Explanation:
    """What ``jd.Descent`` would run a step on, and why. It changes nothing.

    No gradient is computed: the graph of the losses is looked at, and stays. What an engine finds
    out only in its first step, such as losses that depend on other instances than their own, is
    therefore not foreseen; ``Step.engine`` and ``Step.reason`` tell what a step did run on.

    :param model: The module, or the modules, whose parameters the objectives share.
    :param method: A spec of a weighting, an aggregator or a scalarizer.
    :param losses: As ``Descent.backward`` takes them; or a function that computes them, which is
        called once. With a function, an engine that watches the forward pass (autogram) says
        exactly how it would go about it, where otherwise it judges by what the graph shows.
    :param batch_dim: The dimension along which instances are independent, as in ``jd.Descent``.
    :param features: The shared representation of several tasks, as ``Descent.backward`` takes it.
    :param engine: A spec of an engine, or ``"auto"``.
    :param config: The method's settings.
    :raises ValueError: if ``losses`` or ``features`` is empty, or has no graph, or a loss is no
        scalar.
    :raises UnsupportedModelError: if no engine can serve, with each one's reason.

    >>> import torch
    >>> model, x = torch.nn.Linear(4, 2), torch.randn(8, 4)
    >>> found = explain(model, "upgrad", lambda: model(x).square().mean(1), batch_dim=0)
    >>> found.engine, found.mode
    ('autogram', 'instance-wise, fused: one backward pass for all 8 objectives')
    >>> found.passed_over["autojac"]
    'costlier than autogram, which serves as well'
    """
    modules = shared_modules.checked(model)
    # A method that was handed over may keep state, which is no concern of a look at the engines.
    found = deepcopy(registry.method(method, prefer=preferred_kinds(is_auto(engine)), **config))
    shared_modules.bind(found, modules)
    choice = choose(modules, found, engine, batch_dim, warn=False)
    try:
        given = objectives(losses() if callable(losses) else losses)
        check_differentiable(given)
        cut_at = None if features is None else as_features(features)
        taken = choice.serving(given, cut_at)
        return _explained(modules, found, choice, taken, given, cut_at)
    finally:
        if choice.engine is not None and choice.engine is not engine:
            choice.engine.close()


def _explained(
    modules: Sequence[nn.Module],
    method: Any,
    choice: Choice,
    taken: Engine | None,
    given: Objectives,
    features: Sequence[Tensor] | None,
) -> Explanation:
    foreseen = Forecast("one backward pass of the scalar")
    if taken is not None:
        foreseen = forecast(taken, method, given, features)
    trained = shared_modules.trained(modules)
    others: dict[str, str] = {}
    classes = installed(others)
    name = "autograd" if taken is None else taken.name
    others |= {cls.name: why_not(cls, method, choice) for cls in classes if cls.name != name}
    return Explanation(
        method=method.name,
        engine=name,
        mode=foreseen.mode,
        reason=choice.reason,
        passed_over=others,
        m=given.m,
        n=sum(p.numel() for p in trained),
        jacobian_bytes=given.m * sum(p.numel() * p.dtype.itemsize for p in trained),
        held_bytes=foreseen.memory,
        free_bytes=free_for(modules),
        device=str(trained[0].device) if trained else "none",
    )


def _size(count: int) -> str:
    return memory.in_words(count)


def _entry(label: str, text: str) -> Iterator[str]:
    """A label and its text, over as many lines as it takes; nothing if there is no text."""
    for number, line in enumerate(textwrap.wrap(text, _WIDTH - _LABEL)):
        yield f"{'' if number else label:<{_LABEL}}{line}"
