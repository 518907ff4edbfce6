"""The course that a method takes, by the loop of a user's training script."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import cos, pi
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

import jdframework as jd
from jdframework.protocols import ActsAfterUpdate, TakesBatches

from jd_plugin_gallery.problems import Problem
from jd_plugin_report.contestants import Contestant

STEPS: Final = 150
_STEPS_PER_EPOCH: Final = 10
_SEED: Final = 0


@dataclass(frozen=True)
class Course:
    """Where one start led to."""

    points: Float[Tensor, "t 2"]
    values: Float[Tensor, "t 2"]


class _Point(nn.Module):
    def __init__(self, start: tuple[float, float]) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(start, dtype=torch.float64))


def course(contestant: Contestant, problem: Problem, start: tuple[float, float]) -> Course:
    """Gradient descent from ``start`` with the method's updates.

    The learning rate falls to zero along half a cosine, the same for every method, so that methods
    whose update does not shrink towards the optimum come to rest as well. Every tenth step ends an
    epoch; independent batches have the same losses, as there is no noise.

    :param contestant: The method.
    :param problem: The objectives.
    :param start: The first point.
    :raises JDError: if a step fails, naming the method.
    """
    model = _Point(start)
    points = [model.x.detach().clone()]
    with _own_random_numbers(), closing(_descent(contestant, model)) as descent:
        parameters = [*model.parameters(), *descent.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=problem.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: (1 + cos(pi * step / STEPS)) / 2
        )
        for step in range(STEPS):
            try:
                _step(descent, optimizer, model, problem)
            except jd.JDError as error:
                raise jd.JDError(f"{contestant.name} fails on {problem.name!r}: {error}") from error
            schedule.step()
            if (step + 1) % _STEPS_PER_EPOCH == 0:
                descent.end_epoch()
            points.append(model.x.detach().clone())
    found = torch.stack(points)
    return Course(found, problem.losses(found))


def _descent(contestant: Contestant, model: nn.Module) -> jd.Descent:
    return jd.Descent(model, contestant.name, **contestant.settings)


def _step(
    descent: jd.Descent, optimizer: torch.optim.Optimizer, model: _Point, problem: Problem
) -> None:
    optimizer.zero_grad()
    descent.backward(problem.losses(model.x), **_independent(descent.method, model, problem))
    optimizer.step()
    if isinstance(descent.method, ActsAfterUpdate):
        descent.after_update(problem.losses(model.x.detach()))


def _independent(method: Any, model: _Point, problem: Problem) -> dict[str, Any]:
    if "cross-gramian" not in method.needs:
        return {}
    wanted = max(method.independent_batches) if isinstance(method, TakesBatches) else 1
    return {"independent": tuple(problem.losses(model.x) for _ in range(wanted))}


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """A picture must not depend on the ones before it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        yield
