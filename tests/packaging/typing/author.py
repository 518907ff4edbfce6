"""What an author and a user write with the public names, for the type checkers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jdframework as jd
import torch
from jaxtyping import Float
from jdframework.bases import (
    Aggregator,
    GramianWeighting,
    JacobianWeighting,
    Randomised,
    Scalarizer,
    SeededConfig,
)
from jdframework.config import Config, Paper, Vector
from jdframework.hooks import hookimpl
from jdframework.protocols import Engine, Weighting
from jdframework.step import Step
from pydantic import Field
from torch import Tensor, nn


class TypedConfig(SeededConfig):
    """Settings."""

    weights: Vector = Field((1.0,), description="Numbers.")


class Typed(Randomised, GramianWeighting):
    """A weighting with everything that a class may set."""

    Config = TypedConfig
    config: TypedConfig
    claims: ClassVar[Mapping[str, Any]] = {"scale": "invariant"}
    paper = Paper(title="t", authors="a", venue="v", year=2026, url="https://example.org")
    calls: Tensor

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        self.calls += 1
        return self.normal(len(gramian), like=gramian) * self.config.weights[0]

    def reset(self) -> None:
        super().reset()
        self.calls.zero_()


class Rows(JacobianWeighting):
    def forward(self, jacobian: Float[Tensor, "m n"], /) -> Float[Tensor, " m"]:
        return jacobian.square().sum(dim=1).sqrt()


class Direction(Aggregator):
    def forward(self, jacobian: Float[Tensor, "m n"], /) -> Float[Tensor, " n"]:
        return jacobian.sum(dim=0)


class Combined(Scalarizer):
    Config = Config

    def forward(self, losses: Float[Tensor, "*shape"], /) -> Float[Tensor, ""]:
        return losses.sum()


@jd.register("weighting", "typed-weighting")
class Registered(Rows):
    """Registered."""


@hookimpl
def jd_step(step: Step) -> None:
    weights: Tensor | None = step.weights
    conflict: float = step.conflict
    print(weights, conflict, step.names)


def use(model: nn.Module, losses: Tensor) -> None:
    weighting: Weighting = jd.weighting("upgrad")
    same: Weighting = jd.weighting(Typed(seed=1))
    weights: Tensor = weighting(losses) + same(losses)
    engine: Engine = jd.engine("autogram", model, batch_dim=0)
    gramian: Tensor = engine.compute_gramian(losses)
    found: Tensor | None = engine.backward(losses, weighting)
    descent = jd.Descent(model, {"name": "cagrad", "c": 0.4}, engine=engine)
    step: Step = descent.backward({"a": weights[0], "b": gramian[0, 0]})
    print(found, step.gramian, jd.describe("upgrad").paper, jd.available("engine"))
    try:
        jd.aggregator("x")
    except jd.UnknownNameError as error:
        print(error)
