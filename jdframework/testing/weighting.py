"""The suite of weightings."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar, Final, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

import jdframework as jd
from jdframework import linalg
from jdframework.protocols.names import Kind
from jdframework.testing.families import FAMILIES, Family
from jdframework.testing.method import MethodSuite
from jdframework.testing.precision import precisions
from jdframework.testing.strategies import REPEATABLE, jacobians

FACTORS: Final = (1e-12, 1e-6, 1e-3, 1e3, 1e6, 1e12)


class WeightingSuite(MethodSuite):
    """Holds a weighting to its contract; subclass it as ``Test…`` and set ``spec``.

    Answers are compared by the update ``Jᵀw`` that they give, relative to the lengths of its
    terms, as the weights themselves need not be unique.
    """

    kind: ClassVar[Kind] = "weighting"

    objectives: ClassVar[tuple[int, ...]] = (1, 2, 3, 7)
    """The numbers of objectives to test; fewer for a method whose settings fix the number."""
    permutation_equivariant: ClassVar[bool] = True
    """Claim: objectives in another order get the same weights, in that order."""
    scale: ClassVar[Literal["equivariant", "invariant"] | None] = "equivariant"
    """Claim: what multiplying ``J`` by a positive number ``c`` does to the update ``Jᵀw``.
    ``"equivariant"`` multiplies it by ``c``, the weights being unchanged (upgrad, mgda, imtl-g);
    ``"invariant"`` leaves it as it is, the weights being divided by ``c`` (nash-mtl); None claims
    nothing."""
    tolerance: ClassVar[float] = 1e-6
    """Up to what relative error two updates count as equal."""
    optimality_tolerance: ClassVar[float] = 1e-8
    """Up to what residual the method's own optimality condition counts as fulfilled."""

    @pytest.fixture(params=FAMILIES.values(), ids=str)
    def family(self, request: pytest.FixtureRequest) -> Family:
        """Each family of Jacobians in turn."""
        family: Family = request.param
        return family

    def optimality(self, gramian: Float[Tensor, "m m"], weights: Float[Tensor, " m"]) -> float:
        """How far ``weights`` are from fulfilling the method's own optimality condition.

        Override it: return a residual that is zero at the solution, relative to the scale of
        ``gramian``. It is checked on every family of Jacobians, in float64.

        :param gramian: ``G``; ``J`` for a weighting that needs the Jacobian.
        :param weights: What the method gave.
        """
        raise NotImplementedError

    def sample(self, seed: int = 0) -> Float[Tensor, "m n"]:
        """A Jacobian with independent normal entries."""
        return FAMILIES["random"](self.typical(), seed)

    def typical(self) -> int:
        """The number of objectives where only one is tested."""
        return max((m for m in self.objectives if m <= 3), default=self.objectives[0])

    def inputs(self, method: Any, sample: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The statistic that the method needs of a Jacobian, and losses if it needs them.

        Where the method needs a second batch, its Jacobian is another with rows alike.

        :param sample: A Jacobian.
        """
        jacobian = sample.detach().cpu().double()
        extra = {"losses": losses_of_rows(jacobian).to(sample)} if "losses" in method.needs else {}
        if "jacobian" in method.needs:
            return sample, extra
        if "cross-gramian" in method.needs:
            other = jacobian + 0.1 * jacobian.roll(1, dims=1)
            return (jacobian @ other.T).to(sample), extra
        return linalg.gramian([jacobian]).to(sample), extra

    def losses_after(self, method: Any, sample: Tensor) -> Tensor:
        """Losses somewhat below those of the step."""
        return 0.9 * losses_of_rows(sample)

    def test_every_family_gets_finite_weights(self, family: Family) -> None:
        """One finite weight per objective, for degenerate and badly scaled Jacobians too."""
        for m in self.objectives:
            weights = self.answer(self.make(), family(m))
            assert weights.shape == (m,), f"{m} objectives got weights {list(weights.shape)}"
            assert torch.isfinite(weights).all(), f"{m} objectives got {weights.tolist()}"

    def test_any_jacobian_gets_finite_weights(self) -> None:
        """Likewise for Jacobians that hypothesis invents."""

        @REPEATABLE
        @given(jacobians(rows=st.sampled_from(self.objectives)))
        def check(jacobian: Tensor) -> None:
            weights = self.answer(self.make(), jacobian)
            assert weights.shape == (len(jacobian),)
            assert torch.isfinite(weights).all(), f"{jacobian.tolist()} got {weights.tolist()}"

        check()

    def test_one_objective_gets_one_finite_weight(self) -> None:
        """One objective needs no compromise, and no special care by the user."""
        if 1 not in self.objectives:
            pytest.skip("not applicable: the settings fix another number of objectives")
        weights = self.answer(self.make(), FAMILIES["random"](1))
        assert weights.shape == (1,)
        assert torch.isfinite(weights).all(), f"got {weights.tolist()}"

    def test_dtype_and_device_are_handed_back(self) -> None:
        """The weights have the input's dtype and device."""
        for device, dtype in precisions():
            method = self.make().to(device)
            statistic, extra = self.inputs(method, self.sample().to(device, dtype))
            weights = method(statistic, **extra)
            assert weights.dtype == dtype, f"{dtype} in, {weights.dtype} out"
            assert weights.device == statistic.device, f"{device} in, {weights.device} out"
            assert torch.isfinite(weights).all(), f"{dtype}: got {weights.tolist()}"

    def test_half_precision_is_computed_in_more(self) -> None:
        """In half precision only the result is rounded, not the computation."""
        for dtype in (torch.float16, torch.bfloat16):
            method = self.make()
            statistic, extra = self.inputs(method, self.sample().to(dtype))
            found = method(statistic, **extra).double()
            expected = self.make()(statistic.double(), **{k: v.double() for k, v in extra.items()})
            error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))
            rounding = 2 * torch.finfo(dtype).eps
            assert error <= rounding, (
                f"{dtype}: off by {error:.1e}, rounding explains {rounding:.0e}"
            )

    def test_the_weights_carry_no_graph(self) -> None:
        """The weights are constants, whatever the input's graph."""
        method = self.make()
        statistic, extra = self.inputs(method, self.sample())
        weights = method(statistic.requires_grad_(), **extra)
        assert not weights.requires_grad, "the weights still require gradients"

    def test_a_promised_derivative_is_the_whole_one(self) -> None:
        """``Jᵀw`` has the derivative that its differences have, if the class promises one."""
        jacobian = self.sample().requires_grad_()
        extra = self.inputs(self.make(), jacobian)[1]
        if not getattr(jd.aggregator(self.make()), "differentiable", False):
            pytest.skip("not applicable: the direction has no graph")
        whole = torch.autograd.gradcheck(
            lambda rows: jd.aggregator(self.make())(rows, **extra), jacobian, raise_exception=False
        )
        assert whole, (
            "the class says that it is differentiable, but the derivative of Jᵀw for constant w "
            "is not that of its differences"
        )

    def test_a_wrong_shape_is_refused(self) -> None:
        """What is no Gramian (or no Jacobian) raises ``ValueError``."""
        method = self.make()
        square = "jacobian" not in method.needs
        for wrong in [(3,), (3, 3, 3), (0, 0), *([(2, 3)] if square else [])]:
            with pytest.raises(ValueError, match=r"shape"):
                method(torch.ones(wrong))

    def test_permuted_objectives_get_permuted_weights(self, family: Family) -> None:
        """The order of the objectives does not matter, where claimed."""
        if not self.permutation_equivariant:
            pytest.skip("not applicable: no claim of permutation equivariance")
        for m in self.objectives:
            jacobian = family(m)
            order = torch.arange(m).roll(1).flip(0)
            expected = self.answer(self.make(), jacobian)[order]
            found = self.answer(self.make(), jacobian[order])
            error = _difference(jacobian[order], found, expected)
            assert error <= self.tolerance, (
                f"{m} objectives in the order {order.tolist()} got {found.tolist()}, "
                f"not {expected.tolist()}: the updates differ by {error:.1e}"
            )

    def test_scaling_the_jacobian_does_what_is_claimed(self, family: Family) -> None:
        """Small and large gradients are the same problem, from 1e-12 to 1e12, where claimed."""
        if self.scale is None:
            pytest.skip("not applicable: no claim on the scale")
        for m in self.objectives:
            jacobian = family(m)
            expected = self.answer(self.make(), jacobian)
            for factor in FACTORS:
                found = self.answer(self.make(), factor * jacobian)
                restored = found * factor if self.scale == "invariant" else found
                error = _difference(jacobian, restored, expected)
                assert error <= self.tolerance, (
                    f"{m} objectives, J times {factor:.0e}: {found.tolist()}, but without the "
                    f"factor {expected.tolist()}; the updates differ by {error:.1e}"
                )

    def test_the_optimality_condition_holds(self) -> None:
        """The weights solve the method's own problem, as :meth:`optimality` measures it."""
        if type(self).optimality is WeightingSuite.optimality:
            pytest.skip("not applicable: the suite defines no optimality()")
        for family, m in itertools.product(FAMILIES.values(), self.objectives):
            method = self.make()
            statistic, extra = self.inputs(method, family(m))
            weights = method(statistic, **extra)
            residual = self.optimality(statistic, weights)
            assert residual <= self.optimality_tolerance, (
                f"{family}, {m} objectives: the weights {weights.tolist()} miss the optimality "
                f"condition by {residual:.1e}"
            )


def losses_of_rows(jacobian: Float[Tensor, "m n"]) -> Float[Tensor, " m"]:
    """Positive losses that belong to the rows, and do not depend on their scale."""
    lengths = jacobian.norm(dim=1)
    first = jacobian[:, :1].abs().sum(dim=1)
    return 1 + torch.where(lengths > 0, first / lengths, 0.0)


def _difference(jacobian: Tensor, first: Tensor, second: Tensor) -> float:
    """By how much two weights' updates differ, relative to the lengths of their terms."""
    lengths = jacobian.norm(dim=1)
    scale = max(float(first.abs() @ lengths), float(second.abs() @ lengths))
    gap = float(((first - second) @ jacobian).norm())
    return gap / scale if scale else gap
