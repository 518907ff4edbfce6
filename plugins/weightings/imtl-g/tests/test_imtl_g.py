"""IMTL-G."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.linalg import cosines
from jdframework.testing import FAMILIES, WeightingSuite


class TestIMTLG(WeightingSuite):
    spec = "imtl-g"
    optimality_tolerance: ClassVar[float] = 1e-8

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The projections on the unit gradients are as equal as their span allows."""
        norms = gramian.diagonal().sqrt()
        unit = cosines(gramian)
        wanted = (norms > 0).double()
        if not weights.any():  # right only where the unit gradients balance out
            return float((wanted @ unit @ wanted).clamp(min=0.0))
        projections = unit @ (weights * norms)
        scale = (projections @ wanted) / projections.square().sum()
        return float((unit @ (scale * projections - wanted)).abs().max())


def normal(seed: int, m: int, n: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, n, generator=generator, dtype=torch.float64)


def weights_of(jacobian: Tensor) -> Tensor:
    return jd.weighting("imtl-g")(jacobian @ jacobian.T)


def balanced(m: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Unit gradients in a plane whose sum is zero."""
    angles = 2 * math.pi * torch.arange(m, dtype=torch.float64) / m + 0.3
    return torch.stack([angles.cos(), angles.sin()], dim=1).to(dtype)


@pytest.mark.parametrize("m", [1, 2, 3, 8, 20])
def test_the_projections_on_the_unit_gradients_are_equal(m: int) -> None:
    for seed in range(10):
        jacobian = normal(seed, m, n=40)
        update = jd.aggregator("imtl-g")(jacobian)
        projections = (jacobian @ update) / jacobian.norm(dim=1)
        torch.testing.assert_close(projections, projections[0].expand(m), rtol=1e-9, atol=0)


@pytest.mark.parametrize("m", [1, 2, 3, 8, 20])
def test_the_weights_sum_to_one(m: int) -> None:
    for seed in range(10):
        assert weights_of(normal(seed, m)).sum().item() == pytest.approx(1.0, abs=1e-9)


def test_orthogonal_gradients_are_weighted_by_their_inverse_norms() -> None:
    found = jd.weighting("imtl-g")(torch.diag(torch.tensor([1.0, 4.0, 16.0])))
    torch.testing.assert_close(found, torch.tensor([4.0, 2.0, 1.0]) / 7)


@pytest.mark.parametrize("m", [2, 3, 6])
def test_of_well_scaled_gradients_the_weights_are_torchjds(m: int) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    theirs = aggregation.IMTLGWeighting()
    for seed in range(20):
        jacobian = normal(seed, m)
        matrix = jacobian @ jacobian.T
        torch.testing.assert_close(weights_of(jacobian), theirs(matrix), rtol=1e-5, atol=1e-5)


def test_small_gradients_are_not_lost_in_single_precision() -> None:
    jacobian = normal(0, m=3).float() * torch.tensor([1.0, 1e-3, 1e-6])[:, None]
    exact = weights_of(jacobian.double())
    found = weights_of(jacobian)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)


def test_torchjd_loses_small_gradients_in_single_precision() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = normal(0, m=3).float() * torch.tensor([1.0, 1e-3, 1e-6])[:, None]
    update = aggregation.IMTLGWeighting()(jacobian @ jacobian.T) @ jacobian
    projections = (jacobian @ update) / jacobian.norm(dim=1)
    assert (projections / projections.mean() - 1).abs().max() > 0.1, "torchjd has mended this"


@pytest.mark.parametrize("norms", [(1.0, 2.0, 5.0), (1e-6, 1.0, 1e6)])
def test_parallel_gradients_share_by_their_inverse_norms(norms: tuple[float, ...]) -> None:
    lengths = torch.tensor(norms, dtype=torch.float64)
    found = weights_of(lengths[:, None] * normal(1, m=1))
    torch.testing.assert_close(found, (1 / lengths) / (1 / lengths).sum(), rtol=1e-9, atol=0)


def test_a_zero_gradient_gets_no_weight_and_changes_no_other() -> None:
    jacobian = normal(2, m=4)
    expected = weights_of(jacobian[[0, 1, 3]])
    jacobian[2] = 0.0
    found = weights_of(jacobian)
    assert found[2] == 0.0
    torch.testing.assert_close(found[[0, 1, 3]], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norms", ["equal", "unequal"])
@pytest.mark.parametrize("m", [2, 3, 5, 7])
def test_where_the_unit_gradients_balance_out_the_weights_are_zero(
    m: int, norms: str, dtype: torch.dtype
) -> None:
    jacobian = balanced(m, dtype)
    if norms == "unequal":
        jacobian *= torch.linspace(1, 100, m, dtype=dtype)[:, None]
    assert weights_of(jacobian).tolist() == [0.0] * m


def test_close_to_balance_the_weights_still_sum_to_one() -> None:
    jacobian = balanced(3)
    jacobian[0] += 1e-3
    assert weights_of(jacobian).sum().item() == pytest.approx(1.0, abs=1e-6)


def test_weights_that_cancel_are_zero() -> None:
    unit = torch.tensor([[1.0, 0.7, 0.0], [0.7, 1.0, 0.7], [0.0, 0.7, 1.0]], dtype=torch.float64)
    wanted = torch.linalg.solve(unit, torch.ones(3, dtype=torch.float64))
    assert wanted[1] < 0 < wanted[0]
    norms = torch.ones(3, dtype=torch.float64)
    norms[1] = -wanted[1] / (wanted[0] + wanted[2])
    assert jd.weighting("imtl-g")(norms * unit * norms[:, None]).tolist() == [0.0, 0.0, 0.0]


def test_no_gradient_at_all_gives_zero_weights() -> None:
    assert jd.weighting("imtl-g")(torch.zeros(3, 3)).tolist() == [0.0] * 3


@pytest.mark.parametrize(("m", "n"), [(4, 2), (8, 4), (16, 8)])
def test_dependent_gradients_give_the_same_update_in_single_precision(m: int, n: int) -> None:
    for seed in range(5):
        jacobian = normal(seed, m, n).float()
        expected = weights_of(jacobian.double()) @ jacobian.double()
        found = weights_of(jacobian).double() @ jacobian.double()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.norm()))


@pytest.mark.parametrize("name", ["duplicate rows", "badly scaled", "tiny", "huge"])
def test_degenerate_gradients_have_equal_projections_too(name: str) -> None:
    jacobian = FAMILIES[name](3)
    update = weights_of(jacobian) @ jacobian
    projections = (jacobian @ update) / jacobian.norm(dim=1)
    torch.testing.assert_close(projections, projections[0].expand(3), rtol=1e-6, atol=0)
