"""The suite of aggregators."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

import jdframework as jd
from jdframework.protocols.names import Kind
from jdframework.testing.families import FAMILIES, Family
from jdframework.testing.method import MethodSuite
from jdframework.testing.precision import precisions
from jdframework.testing.strategies import REPEATABLE, jacobians
from jdframework.testing.weighting import FACTORS, losses_of_rows


class AggregatorSuite(MethodSuite):
    """Holds an aggregator to its contract; subclass it as ``Test…`` and set ``spec``.

    The name or the class of a weighting is tested as the aggregator ``Jᵀw`` that
    ``jd.aggregator`` makes of it.
    """

    kind: ClassVar[Kind] = "aggregator"

    objectives: ClassVar[tuple[int, ...]] = (1, 2, 3, 7)
    """The numbers of objectives to test; fewer for a method whose settings fix the number."""
    permutation_invariant: ClassVar[bool] = True
    """Claim: the order of the objectives does not change the direction."""
    scale: ClassVar[Literal["equivariant", "invariant"] | None] = "equivariant"
    """Claim: what multiplying ``J`` by a positive number ``c`` does to the direction:
    ``"equivariant"`` multiplies it by ``c``, ``"invariant"`` leaves it; None claims nothing."""
    tolerance: ClassVar[float] = 1e-6
    """Up to what error two directions count as equal, relative to the longest gradient."""
    optimality_tolerance: ClassVar[float] = 1e-8
    """Up to what residual the method's own optimality condition counts as fulfilled."""

    @pytest.fixture(params=FAMILIES.values(), ids=str)
    def family(self, request: pytest.FixtureRequest) -> Family:
        """Each family of Jacobians in turn."""
        family: Family = request.param
        return family

    def optimality(self, jacobian: Float[Tensor, "m n"], direction: Float[Tensor, " n"]) -> float:
        """How far ``direction`` is from fulfilling the method's own optimality condition.

        Override it: return a residual that is zero at the solution, relative to the scale of
        ``jacobian``. It is checked on every family of Jacobians, in float64.

        :param jacobian: ``J``.
        :param direction: What the method gave.
        """
        raise NotImplementedError

    def resolved_kind(self, name: str) -> Kind:
        """An aggregator if there is one of that name, a weighting otherwise."""
        return "aggregator" if "aggregator" in jd.describe(name, self.kind).kinds else "weighting"

    def make(self, **changes: Any) -> Any:
        """A fresh instance.

        :param changes: Settings that differ from those of ``spec`` and ``config``.
        """
        return jd.aggregator(super().make(**changes))

    def sample(self, seed: int = 0) -> Float[Tensor, "m n"]:
        """A Jacobian with independent normal entries."""
        m = max((m for m in self.objectives if m <= 3), default=self.objectives[0])
        return FAMILIES["random"](m, seed)

    def inputs(self, method: Any, sample: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The Jacobian, and losses if the method needs them."""
        extra = {}
        if "losses" in method.needs:
            extra["losses"] = losses_of_rows(sample.detach().cpu().double()).to(sample)
        return sample, extra

    def test_every_family_gets_a_finite_direction(self, family: Family) -> None:
        """A finite direction, for degenerate and badly scaled Jacobians too."""
        for m in self.objectives:
            jacobian = family(m)
            direction = self.answer(self.make(), jacobian)
            n = jacobian.shape[1]
            assert direction.shape == (n,), f"[{m}, {n}] gave {list(direction.shape)}"
            assert torch.isfinite(direction).all(), f"[{m}, {n}] gave {direction.tolist()}"

    def test_any_jacobian_gets_a_finite_direction(self) -> None:
        """Likewise for Jacobians that hypothesis invents."""

        @REPEATABLE
        @given(jacobians(rows=st.sampled_from(self.objectives)))
        def check(jacobian: Tensor) -> None:
            direction = self.answer(self.make(), jacobian)
            assert direction.shape == jacobian.shape[1:]
            assert torch.isfinite(direction).all(), f"{jacobian.tolist()} gave {direction.tolist()}"

        check()

    def test_one_objective_gets_a_finite_direction(self) -> None:
        """One objective needs no compromise, and no special care by the user."""
        if 1 not in self.objectives:
            pytest.skip("not applicable: the settings fix another number of objectives")
        direction = self.answer(self.make(), FAMILIES["random"](1))
        assert torch.isfinite(direction).all(), f"got {direction.tolist()}"

    def test_dtype_and_device_are_handed_back(self) -> None:
        """The direction has the Jacobian's dtype and device."""
        for device, dtype in precisions():
            method = self.make().to(device)
            jacobian = self.sample().to(device, dtype)
            direction = self.answer(method, jacobian)
            assert direction.dtype == dtype, f"{dtype} in, {direction.dtype} out"
            assert direction.device == jacobian.device, f"{device} in, {direction.device} out"
            assert torch.isfinite(direction).all(), f"{dtype}: got {direction.tolist()}"

    def test_half_precision_is_computed_in_more(self) -> None:
        """In half precision only the result is rounded, not the computation."""
        for dtype in (torch.float16, torch.bfloat16):
            jacobian = self.sample().to(dtype)
            given, extra = self.inputs(self.make(), jacobian)
            found = self.make()(given, **extra).double()
            wider = {name: tensor.double() for name, tensor in extra.items()}
            expected = self.make()(given.double(), **wider)
            error = float((found - expected).abs().max() / jacobian.double().norm())
            # A weighted sum is rounded twice: its weights, then the sum.
            rounding = 8 * torch.finfo(dtype).eps
            assert error <= rounding, (
                f"{dtype}: off by {error:.1e}, rounding explains {rounding:.0e}"
            )

    def test_the_direction_has_its_whole_derivative_or_no_graph(self) -> None:
        """The direction is a constant, or has the derivative that differences have."""
        given, extra = self.inputs(self.make(), self.sample())
        given = given.requires_grad_()
        if not self.make()(given, **extra).requires_grad:
            return
        assert self.make().differentiable, "the direction still requires gradients"
        whole = torch.autograd.gradcheck(
            lambda rows: self.make()(rows, **extra), given, raise_exception=False
        )
        assert whole, "the direction's derivative is not that of its differences"

    def test_a_wrong_shape_is_refused(self) -> None:
        """What is no Jacobian raises ``ValueError``."""
        method = self.make()
        for wrong in [(3,), (3, 3, 3), (0, 4)]:
            with pytest.raises(ValueError, match=r"shape"):
                method(torch.ones(wrong))

    def test_permuted_objectives_get_the_same_direction(self, family: Family) -> None:
        """The order of the objectives does not matter, where claimed."""
        if not self.permutation_invariant:
            pytest.skip("not applicable: no claim of permutation invariance")
        for m in self.objectives:
            jacobian = family(m)
            order = torch.arange(m).roll(1).flip(0)
            expected = self.answer(self.make(), jacobian)
            found = self.answer(self.make(), jacobian[order])
            error = _difference(jacobian, found, expected)
            assert error <= self.tolerance, (
                f"{m} objectives in the order {order.tolist()} gave {found.tolist()}, "
                f"not {expected.tolist()}: they differ by {error:.1e}"
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
                restored = found / factor if self.scale == "equivariant" else found
                error = _difference(jacobian, restored, expected)
                assert error <= self.tolerance, (
                    f"{m} objectives, J times {factor:.0e}: {found.tolist()}, but without the "
                    f"factor {expected.tolist()}; they differ by {error:.1e}"
                )

    def test_columns_may_come_in_several_calls(self, family: Family) -> None:
        """Blocks of columns, one call each, give what one call gives, where claimed."""
        method, whole = self.make(), self.make()
        if not getattr(method, "column_wise", False):
            pytest.skip("not applicable: no claim that columns are treated separately")
        for m in self.objectives:
            jacobian = family(m)
            given, extra = self.inputs(method, jacobian)
            torch.manual_seed(0)
            found = torch.cat([method(block, **extra) for block in given.tensor_split(3, dim=1)])
            torch.manual_seed(0)
            expected = whole(given, **extra)
            error = _difference(jacobian, found, expected)
            assert error <= self.tolerance, (
                f"{m} objectives, by thirds of the columns: {found.tolist()}, not "
                f"{expected.tolist()}; set column_wise = False"
            )

    def test_the_optimality_condition_holds(self) -> None:
        """The direction solves the method's own problem, as :meth:`optimality` measures it."""
        if type(self).optimality is AggregatorSuite.optimality:
            pytest.skip("not applicable: the suite defines no optimality()")
        for family, m in itertools.product(FAMILIES.values(), self.objectives):
            jacobian = family(m)
            direction = self.answer(self.make(), jacobian)
            residual = self.optimality(jacobian, direction)
            assert residual <= self.optimality_tolerance, (
                f"{family}, {m} objectives: the direction {direction.tolist()} misses the "
                f"optimality condition by {residual:.1e}"
            )


def _difference(jacobian: Tensor, first: Tensor, second: Tensor) -> float:
    """By how much two directions differ, relative to the longest of them and of the gradients."""
    lengths = [float(first.norm()), float(second.norm()), *jacobian.norm(dim=1).tolist()]
    gap = float((first - second).norm())
    return gap / max(lengths) if max(lengths) else gap
