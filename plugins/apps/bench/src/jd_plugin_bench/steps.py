"""The contestants: one step of training each, on a model of its own."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

import jdframework as jd

from jd_plugin_bench.live_memory import peak_bytes
from jd_plugin_bench.models import Subject, batch_of
from jd_plugin_bench.timing import Ratio, measured, ratio, summary

PLAIN: Final = "plain"
"""The name of the ordinary step: the mean of the losses, one backward pass."""

Step = Callable[[Tensor], object]


@dataclass(frozen=True)
class Cost:
    """What a step of one contestant costs, in ordinary steps."""

    contestant: str
    time: Ratio | None
    """None if it cannot serve the model."""
    memory: float | None
    """The peak of live memory."""
    reason: str = ""
    """Why it cannot."""


@dataclass(frozen=True)
class Case:
    """One model and one batch, and what each contestant's step costs."""

    model: str
    batch: int
    milliseconds: float
    """The median of the ordinary step."""
    costs: tuple[Cost, ...]


def plain(model: nn.Module) -> Step:
    """An ordinary training step."""
    return lambda losses: losses.mean().backward()


def descending(engine: str, method: str, **config: Any) -> Callable[[nn.Module], Step]:
    """A step of ``jd.Descent`` with one objective per instance.

    :param engine: The engine's name.
    :param method: The method's name.
    :param config: The method's settings.
    """

    def make(model: nn.Module) -> Step:
        return jd.Descent(model, method, engine=engine, batch_dim=0, **config).backward

    return make


def measure(
    subject: Subject,
    batch: int,
    contestants: Mapping[str, Callable[[nn.Module], Step]],
    *,
    device: str = "cpu",
    rounds: int = 9,
) -> Case:
    """Takes the contestants' steps in turn with ordinary ones.

    :param subject: The model.
    :param batch: How many instances, each an objective.
    :param contestants: By name, what makes a step for a model.
    :param device: Where to run.
    :param rounds: How many measurements of each.
    """
    torch.manual_seed(0)
    original = subject.model().to(device)
    inputs, classes = batch_of(subject, batch, device)
    runs: dict[str, Run] = {}
    refused: list[Cost] = []
    for name, make in {PLAIN: plain, **contestants}.items():
        run = Run(make, original, inputs, classes)
        try:
            _quietly(run)
        except jd.UnsupportedModelError as error:
            refused.append(Cost(name, None, None, str(error)))
        else:
            runs[name] = run
    memory = {name: peak_bytes(run, run.model, device) for name, run in runs.items()}
    times = measured(runs, rounds)
    costs = [
        Cost(name, ratio(times[name], times[PLAIN]), memory[name] / memory[PLAIN])
        for name in runs
        if name != PLAIN
    ]
    milliseconds = 1e3 * summary(times[PLAIN]).median
    return Case(subject.name, batch, milliseconds, (*costs, *refused))


class Run:
    """A whole step of one contestant, each call of it; on a copy of the model.

    One's hooks would slow the others' forward passes.

    :param make: What makes its step for a model.
    :param original: The model.
    :param inputs: The model's.
    :param classes: Of the cross-entropy.
    """

    def __init__(
        self,
        make: Callable[[nn.Module], Step],
        original: nn.Module,
        inputs: Tensor,
        classes: Tensor,
    ) -> None:
        self.model = copy.deepcopy(original)
        self._make = make
        self._step: Step | None = None
        self._inputs, self._classes = inputs, classes

    def __call__(self) -> None:
        """Forward pass, losses and the contestant's part."""
        step = self._step = self._step or self._make(self.model)
        self.model.zero_grad(set_to_none=True)
        outputs = self.model(self._inputs)
        step(functional.cross_entropy(outputs, self._classes, reduction="none"))


def _quietly(run: Callable[[], None]) -> None:
    """The first step, at which engines say how they go on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()


def engines(names: Sequence[str], method: str) -> dict[str, Callable[[nn.Module], Step]]:
    """A contestant for each engine, by its name."""
    return {name: descending(name, method) for name in names}
