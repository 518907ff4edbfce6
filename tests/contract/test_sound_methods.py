"""Methods without a fault: the suites have nothing to say against them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from jdframework.bases import (
    Aggregator,
    GramianWeighting,
    JacobianWeighting,
    Randomised,
    Scalarizer,
    SeededConfig,
    TrainableScalarizer,
)
from jdframework.config import Config
from jdframework.protocols.names import Need
from jdframework.testing import AggregatorSuite, ScalarizerSuite, WeightingSuite


class Shares(GramianWeighting):
    """Weights each objective by its share of the squared norms."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        trace = gramian.trace()
        equal = gramian.new_full((len(gramian),), 1 / len(gramian))
        return torch.where(trace == 0, equal, gramian.diagonal() / trace)


class TestShares(WeightingSuite):
    spec = Shares

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        trace = float(gramian.trace())
        return float((weights * trace - gramian.diagonal()).abs().max()) / (trace or 1.0)


class UnitUpdate(GramianWeighting):
    """The mean, scaled to length one."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        length = gramian.mean(dtype=torch.float64).clamp(min=0).sqrt()
        noise = 1e-7 * gramian.diagonal().sqrt().max()
        weights = gramian.new_full((len(gramian),), 1 / len(gramian))
        return torch.where(length <= noise, 0.0, weights / length)


class TestUnitUpdate(WeightingSuite):
    spec = UnitUpdate
    scale = "invariant"


class MovingConfig(SeededConfig):
    """Settings of the moving shares."""

    decay: float = Field(0.5, ge=0.0, lt=1.0, description="How slowly the weights move.")


class Moving(Randomised, GramianWeighting):
    """Noisy shares of the squared norms and the losses, averaged over the steps and epochs."""

    Config = MovingConfig
    config: MovingConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"gramian", "losses"})
    average: Tensor
    updates: Tensor

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_buffer("average", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros(2, dtype=torch.float64))

    def forward(self, gramian: Tensor, /, *, losses: Tensor) -> Tensor:
        m = len(gramian)
        shares = Shares().forward(gramian) * losses.to(gramian)
        noisy = shares * self.normal(m, like=gramian).exp() * (1 + self.updates.sum()).to(gramian)
        before = self.average.to(gramian) if self.average.numel() else noisy
        self.average = self.config.decay * before + (1 - self.config.decay) * noisy
        return self.average.clone()

    def after_update(self, losses: Tensor, /) -> None:
        self.updates[0] += losses.sum().to(self.updates)

    def end_epoch(self) -> None:
        self.updates[1] += 1

    def reset(self) -> None:
        super().reset()
        self.average = self.average.new_zeros(0)
        self.updates.zero_()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        self.average = torch.empty_like(state_dict[prefix + "average"])
        super()._load_from_state_dict(state_dict, prefix, *rest)


class TestMoving(WeightingSuite):
    spec = Moving
    permutation_equivariant = False


class TwoBatches(GramianWeighting):
    """Weights by how well two batches agree."""

    needs: ClassVar[frozenset[Need]] = frozenset({"cross-gramian"})

    def forward(self, gramian: Tensor, /) -> Tensor:
        lengths = gramian.diagonal().abs()
        total = lengths.sum()
        return torch.where(total == 0, torch.ones_like(lengths), lengths / total)


class TestTwoBatches(WeightingSuite):
    spec = TwoBatches


class LargestColumn(JacobianWeighting):
    """Weights each objective by its share of the largest absolute entry."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        if not jacobian.numel():
            return jacobian.new_ones(len(jacobian))
        largest = jacobian.abs().max(dim=1).values
        return torch.where(largest.sum() == 0, torch.ones_like(largest), largest / largest.sum())


class TestLargestColumn(WeightingSuite):
    spec = LargestColumn


class TestLargestColumnAsAggregator(AggregatorSuite):
    spec = LargestColumn


class Median(Aggregator):
    """Takes the median of each column."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian.quantile(0.5, dim=0) if jacobian.numel() else jacobian.sum(0)


class TestMedian(AggregatorSuite):
    spec = Median
    robust = True

    def optimality(self, jacobian: Tensor, direction: Tensor) -> float:
        above = (jacobian > direction).sum(0)
        below = (jacobian < direction).sum(0)
        equal = len(jacobian) - above - below
        return float(((above - below).abs() - equal).clamp(min=0).sum())


class PowerConfig(Config):
    """Settings of the power mean."""

    power: int = Field(2, ge=1, description="The exponent.")


class Power(Scalarizer):
    """Sums a power of the losses."""

    Config = PowerConfig
    config: PowerConfig

    def forward(self, losses: Tensor, /) -> Tensor:
        return (losses**self.config.power).sum()


class TestPower(ScalarizerSuite):
    spec = Power


class Offsets(TrainableScalarizer):
    """Sums the squared distances to learned values."""

    def forward(self, losses: Tensor, /) -> Tensor:
        return (losses - self.s).square().sum()


class TestOffsets(ScalarizerSuite):
    spec = Offsets
    config: ClassVar[dict[str, Any]] = {"shape": (2, 2)}
