"""The projection on the probability simplex: nearest, feasible, at any scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jdframework.linalg import simplex_projection


def points(scale: float, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = [
        torch.randn(m, generator=generator, dtype=torch.float64)
        for m in (1, 2, 3, 8, 50)
        for _ in range(10)
    ]
    return [(scale * point).to(dtype) for point in drawn]


@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 100.0, 1e12])
def test_no_point_of_the_simplex_is_nearer(scale: float) -> None:
    for point in points(scale):
        found = simplex_projection(point)
        assert found.min() >= 0.0
        assert float(found.sum()) == pytest.approx(1.0, abs=1e-12)
        # p - a is the same on the support, and nowhere larger: the optimality condition.
        gap = point - found
        multiplier = gap[found > 0].max()
        spread = (gap[found > 0] - multiplier).abs().max()
        assert spread <= 1e-12 * max(1.0, scale)
        assert (gap <= multiplier + 1e-12 * max(1.0, scale)).all()


def test_a_point_of_the_simplex_stays_where_it_is() -> None:
    for point in points(1.0):
        inside = torch.softmax(point, 0)
        torch.testing.assert_close(simplex_projection(inside), inside, rtol=0, atol=1e-15)


def test_adding_a_number_to_all_entries_changes_nothing() -> None:
    for point in points(1.0):
        shifted = simplex_projection(point + 1e3)
        torch.testing.assert_close(shifted, simplex_projection(point), rtol=0, atol=1e-12)


def test_the_greatest_of_distant_entries_gets_everything() -> None:
    point = torch.tensor([-1e30, 3e29, -7.0, 1e30])
    assert simplex_projection(point).tolist() == [0.0, 0.0, 0.0, 1.0]


def test_ties_share() -> None:
    assert simplex_projection(torch.tensor([1e20, 1e20, 0.0])).tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(value: float) -> None:
    assert simplex_projection(torch.tensor([0.1, value, 0.2])).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    assert simplex_projection(torch.tensor([0.9, 0.5, -3.0], dtype=dtype)).dtype == dtype
