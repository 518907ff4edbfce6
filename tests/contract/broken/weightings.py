"""Weightings that each break one promise; ``caught_by`` names the tests that must notice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jdframework.bases import GramianWeighting, JacobianWeighting
from jdframework.testing import WeightingSuite


class OneWeightTooMany(GramianWeighting):
    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.new_ones(len(gramian) + 1)


class TestOneWeightTooMany(WeightingSuite):
    spec = OneWeightTooMany
    caught_by = (
        "test_every_family_gets_finite_weights",
        "test_any_jacobian_gets_finite_weights",
        "test_one_objective_gets_one_finite_weight",
    )


class NaNOnZeros(GramianWeighting):
    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.diagonal() / gramian.trace()


class TestNaNOnZeros(WeightingSuite):
    spec = NaNOnZeros
    caught_by = ("test_every_family_gets_finite_weights", "test_any_jacobian_gets_finite_weights")


class FailsForOneObjective(GramianWeighting):
    def forward(self, gramian: Tensor, /) -> Tensor:
        m = len(gramian)
        return gramian.new_full((m,), 1 / (m - 1))


class TestFailsForOneObjective(WeightingSuite):
    spec = FailsForOneObjective
    caught_by = ("test_one_objective_gets_one_finite_weight",)


class AlwaysFloat32(GramianWeighting):
    def __call__(self, gramian: Tensor, /, **extra: Tensor) -> Tensor:
        return super().__call__(gramian, **extra).float()

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.new_ones(len(gramian))


class TestAlwaysFloat32(WeightingSuite):
    spec = AlwaysFloat32
    caught_by = ("test_dtype_and_device_are_handed_back",)


class AlwaysOnTheCPU(GramianWeighting):
    def __call__(self, gramian: Tensor, /, **extra: Tensor) -> Tensor:
        return super().__call__(gramian, **extra).cpu()

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.new_ones(len(gramian))


class TestAlwaysOnTheCPU(WeightingSuite):
    spec = AlwaysOnTheCPU
    caught_by = ("test_the_answer_is_where_the_input_was",)


class KeepsItsConstantsOnTheCPU(GramianWeighting):
    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.diagonal() * torch.ones(len(gramian), dtype=gramian.dtype)


class TestKeepsItsConstantsOnTheCPU(WeightingSuite):
    spec = KeepsItsConstantsOnTheCPU
    scale = None
    caught_by = ("test_the_answer_is_where_the_input_was",)


class ComputesInHalf(JacobianWeighting):
    def __call__(self, jacobian: Tensor, /, **extra: Tensor) -> Tensor:
        with torch.no_grad():
            return self.forward(jacobian)

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return (jacobian @ jacobian.T).softmax(0).sum(1) * 100 - 100


class TestComputesInHalf(WeightingSuite):
    spec = ComputesInHalf
    caught_by = ("test_half_precision_is_computed_in_more",)


class KeepsTheGraph(GramianWeighting):
    def __call__(self, gramian: Tensor, /, **extra: Tensor) -> Tensor:
        return self.forward(gramian)

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.diagonal().softmax(0)


class TestKeepsTheGraph(WeightingSuite):
    spec = KeepsTheGraph
    caught_by = ("test_the_weights_carry_no_graph", "test_a_wrong_shape_is_refused")


class ChangesItsInput(GramianWeighting):
    def forward(self, gramian: Tensor, /) -> Tensor:
        gramian.diagonal().add_(1e-3)
        return gramian.new_ones(len(gramian))


class TestChangesItsInput(WeightingSuite):
    spec = ChangesItsInput
    caught_by = ("test_the_input_is_left_as_it_was",)


class HandsOutItsInput(GramianWeighting):
    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.diagonal()


class TestHandsOutItsInput(WeightingSuite):
    spec = HandsOutItsInput
    caught_by = ("test_the_result_belongs_to_the_caller",)


class FavoursTheFirst(GramianWeighting):
    def forward(self, gramian: Tensor, /) -> Tensor:
        weights = torch.ones_like(gramian[0])
        weights[0] = 2.0
        return weights


class TestFavoursTheFirst(WeightingSuite):
    spec = FavoursTheFirst
    caught_by = ("test_permuted_objectives_get_permuted_weights",)


class AbsoluteEpsilon(GramianWeighting):
    def forward(self, gramian: Tensor, /) -> Tensor:
        lengths = (gramian.diagonal() + 1e-8).sqrt()
        return lengths / lengths.sum()


class TestAbsoluteEpsilon(WeightingSuite):
    spec = AbsoluteEpsilon
    caught_by = ("test_scaling_the_jacobian_does_what_is_claimed",)


class ScalesWithTheJacobian(GramianWeighting):
    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.diagonal().sqrt()


class TestScalesWithTheJacobian(WeightingSuite):
    spec = ScalesWithTheJacobian
    scale = "invariant"
    caught_by = ("test_scaling_the_jacobian_does_what_is_claimed",)


class HidesNaN(GramianWeighting):
    def forward(self, gramian: Tensor, /) -> Tensor:
        return torch.nan_to_num(gramian.diagonal(), 1.0, 1.0, 1.0).clamp(max=1.0)


class TestHidesNaN(WeightingSuite):
    spec = HidesNaN
    caught_by = ("test_non_finite_input_is_not_hidden",)


class RaisesSomethingForeign(GramianWeighting):
    def forward(self, gramian: Tensor, /) -> Tensor:
        return torch.ones(len(gramian)) if int(gramian.trace()) else gramian.diagonal()


class TestRaisesSomethingForeign(WeightingSuite):
    spec = RaisesSomethingForeign
    caught_by = ("test_non_finite_input_is_not_hidden",)


class StopsEarly(GramianWeighting):
    """Min-norm by a few steps of Frank and Wolfe."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        m = len(gramian)
        weights = gramian.new_full((m,), 1 / m)
        for step in range(3):
            corner = torch.eye(m).to(gramian)[(gramian @ weights).argmin()]
            weights = weights + 2 / (step + 2) * (corner - weights)
        return weights


class TestStopsEarly(WeightingSuite):
    spec = StopsEarly
    caught_by = ("test_the_optimality_condition_holds",)

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        products = gramian @ weights
        scale = float(gramian.diagonal().max()) or 1.0
        return float(weights @ products - products.min()) / scale


class NoDocstring(GramianWeighting):
    __doc__ = None

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.new_ones(len(gramian))


class TestNoDocstring(WeightingSuite):
    spec = "no-docstring"
    registers = NoDocstring
    caught_by = ("test_the_name_resolves_and_describes_the_method",)


class UnknownNeed(GramianWeighting):
    needs: Any = frozenset({"hessian"})

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.new_ones(len(gramian))


class TestUnknownNeed(WeightingSuite):
    spec = UnknownNeed
    caught_by = ("test_the_class_is_usable",)


class PromisesHalfADerivative(GramianWeighting):
    differentiable = True

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.diagonal().sqrt()


class TestPromisesHalfADerivative(WeightingSuite):
    spec = PromisesHalfADerivative
    scale = None
    caught_by = ("test_a_promised_derivative_is_the_whole_one",)
