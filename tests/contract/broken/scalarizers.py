"""Scalarizers that each break one promise."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from jdframework.bases import Scalarizer, TrainableScalarizer
from jdframework.testing import ScalarizerSuite


class OneValuePerLoss(Scalarizer):
    def forward(self, losses: Tensor, /) -> Tensor:
        return 2 * losses


class TestOneValuePerLoss(ScalarizerSuite):
    spec = OneValuePerLoss
    caught_by = ("test_the_value_is_a_scalar", "test_any_losses_get_a_finite_value")


class Exponential(Scalarizer):
    def forward(self, losses: Tensor, /) -> Tensor:
        return losses.exp().sum()


class TestExponential(ScalarizerSuite):
    spec = Exponential
    caught_by = ("test_any_losses_get_a_finite_value",)


class Logarithms(Scalarizer):
    def forward(self, losses: Tensor, /) -> Tensor:
        return losses.log().sum()


class TestLogarithms(ScalarizerSuite):
    spec = Logarithms
    caught_by = ("test_negative_losses_get_a_finite_value", "test_zero_losses_get_a_finite_value")


class AlwaysFloat32(Scalarizer):
    def __call__(self, losses: Tensor, /) -> Tensor:
        return super().__call__(losses).float()

    def forward(self, losses: Tensor, /) -> Tensor:
        return losses.sum()


class TestAlwaysFloat32(ScalarizerSuite):
    spec = AlwaysFloat32
    caught_by = ("test_dtype_and_device_are_handed_back",)


class Detached(Scalarizer):
    def forward(self, losses: Tensor, /) -> Tensor:
        return losses.detach().sum()


class TestDetached(ScalarizerSuite):
    spec = Detached
    caught_by = ("test_the_gradient_reaches_the_losses",)


class HalfTheGradient(Scalarizer):
    def forward(self, losses: Tensor, /) -> Tensor:
        return (losses.detach() * losses).sum()


class TestHalfTheGradient(ScalarizerSuite):
    spec = HalfTheGradient
    caught_by = ("test_the_gradient_is_the_derivative",)


class HiddenParameters(Scalarizer):
    """Its parameters are in a list, where no optimizer finds them."""

    trainable: ClassVar[bool] = True

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.hidden = [nn.Parameter(torch.ones(()))]

    def forward(self, losses: Tensor, /) -> Tensor:
        return losses.sum() * self.hidden[0]


class TestHiddenParameters(ScalarizerSuite):
    spec = HiddenParameters
    caught_by = ("test_trainable_parameters_are_in_parameters",)


class UnusedParameters(TrainableScalarizer):
    """Its parameters do not enter the value."""

    def forward(self, losses: Tensor, /) -> Tensor:
        return losses.sum()


class TestUnusedParameters(ScalarizerSuite):
    spec = UnusedParameters
    config: ClassVar[dict[str, Any]] = {"shape": 3}
    caught_by = ("test_trainable_parameters_are_in_parameters",)


class Unchecked(TrainableScalarizer):
    """Leaves out the base class's checks of the shape."""

    def __call__(self, losses: Tensor, /) -> Tensor:
        return self.forward(losses)

    def forward(self, losses: Tensor, /) -> Tensor:
        return (losses.sum() + self.s).sum()


class TestUnchecked(ScalarizerSuite):
    spec = Unchecked
    config: ClassVar[dict[str, Any]] = {"shape": 3}
    caught_by = (
        "test_no_loss_is_refused",
        "test_another_shape_than_the_configured_one_is_refused",
    )


class OnlyTheFirst(Scalarizer):
    def forward(self, losses: Tensor, /) -> Tensor:
        return losses.flatten()[0] + 0 * losses.sum()


class TestOnlyTheFirst(ScalarizerSuite):
    spec = OnlyTheFirst
    caught_by = ("test_permuted_losses_get_the_same_value",)
