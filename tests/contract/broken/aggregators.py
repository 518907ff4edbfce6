"""Aggregators that each break one promise."""

from __future__ import annotations

from torch import Tensor

from jdframework.bases import Aggregator
from jdframework.testing import AggregatorSuite


class OneEntryTooFew(Aggregator):
    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian.mean(0)[1:]


class TestOneEntryTooFew(AggregatorSuite):
    spec = OneEntryTooFew
    caught_by = (
        "test_every_family_gets_a_finite_direction",
        "test_any_jacobian_gets_a_finite_direction",
    )


class UnitLength(Aggregator):
    def forward(self, jacobian: Tensor, /) -> Tensor:
        total = jacobian.sum(0)
        return total / total.norm()


class TestUnitLength(AggregatorSuite):
    spec = UnitLength
    scale = "invariant"
    caught_by = (
        "test_every_family_gets_a_finite_direction",
        "test_any_jacobian_gets_a_finite_direction",
    )


class TestUnitLengthClaimedEquivariant(AggregatorSuite):
    spec = UnitLength
    caught_by = ("test_scaling_the_jacobian_does_what_is_claimed",)


class DeviationFromTheMean(Aggregator):
    def forward(self, jacobian: Tensor, /) -> Tensor:
        m = len(jacobian)
        return jacobian.sum(0) * (m - 1) / (jacobian.new_tensor(m) - 1)


class TestDeviationFromTheMean(AggregatorSuite):
    spec = DeviationFromTheMean
    caught_by = ("test_one_objective_gets_a_finite_direction",)


class AlwaysFloat32(Aggregator):
    def __call__(self, jacobian: Tensor, /) -> Tensor:
        return super().__call__(jacobian).float()

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian.mean(0)


class TestAlwaysFloat32(AggregatorSuite):
    spec = AlwaysFloat32
    caught_by = ("test_dtype_and_device_are_handed_back",)


class Unprotected(Aggregator):
    """Leaves out what the base class does: checks, precision, no graph."""

    def __call__(self, jacobian: Tensor, /) -> Tensor:
        return self.forward(jacobian)

    def forward(self, jacobian: Tensor, /) -> Tensor:
        large = jacobian + 100
        return large.sum(0) - 100 * len(jacobian)


class TestUnprotected(AggregatorSuite):
    spec = Unprotected
    caught_by = (
        "test_half_precision_is_computed_in_more",
        "test_the_direction_has_its_whole_derivative_or_no_graph",
        "test_a_wrong_shape_is_refused",
    )


class HalfDerivative(Aggregator):
    """Says that it is differentiable, and takes its weights as constants, which they are not."""

    differentiable = True

    def forward(self, jacobian: Tensor, /) -> Tensor:
        lengths: Tensor = jacobian.detach().norm(dim=1)
        return lengths @ jacobian


class TestHalfDerivative(AggregatorSuite):
    spec = HalfDerivative
    scale = None
    caught_by = ("test_the_direction_has_its_whole_derivative_or_no_graph",)


class OnlyTheFirst(Aggregator):
    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian[0]


class TestOnlyTheFirst(AggregatorSuite):
    spec = OnlyTheFirst
    caught_by = ("test_permuted_objectives_get_the_same_direction",)


class NotTheMedian(Aggregator):
    """Claims to minimise the sum of the absolute deviations, and takes the mean."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian.mean(0)


class TestNotTheMedian(AggregatorSuite):
    spec = NotTheMedian
    caught_by = ("test_the_optimality_condition_holds",)

    def optimality(self, jacobian: Tensor, direction: Tensor) -> float:
        above = (jacobian > direction).sum(0)
        below = (jacobian < direction).sum(0)
        equal = len(jacobian) - above - below
        return float(((above - below).abs() - equal).clamp(min=0).sum())


class LongestRow(Aggregator):
    """Claims to treat columns separately, and takes the row that is longest over all of them."""

    column_wise = True

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian[jacobian.norm(dim=1).argmax()]


class TestLongestRow(AggregatorSuite):
    spec = LongestRow
    caught_by = ("test_columns_may_come_in_several_calls",)
