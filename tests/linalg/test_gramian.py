from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from jdframework.linalg import (
    carried_precision,
    cosines,
    cross_gramian,
    generalized,
    gramian,
    lengths,
    normalised,
    weighted_sum,
)
from jdframework.linalg.single import narrowed
from jdframework.testing.strategies import REPEATABLE, gramians, jacobians

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHAPES = ((), (3,), (2, 4), (2, 1, 3))


def blocks(m: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(m, *s, generator=generator, dtype=torch.float64).to(dtype) for s in SHAPES]


def joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.reshape(len(part), -1) for part in parts], dim=1)


@pytest.mark.parametrize("m", [1, 2, 5])
def test_the_gramian_of_blocks_is_that_of_the_joined_jacobian(m: int) -> None:
    whole = joined(blocks(m))
    torch.testing.assert_close(gramian(blocks(m)), whole @ whole.T)


def test_the_cross_gramian_of_blocks_is_that_of_the_joined_jacobians() -> None:
    expected = joined(blocks(3, seed=1)) @ joined(blocks(3, seed=2)).T
    torch.testing.assert_close(cross_gramian(blocks(3, seed=1), blocks(3, seed=2)), expected)


@REPEATABLE
@given(jacobians())
def test_any_gramian_is_positive_semi_definite(jacobian: Tensor) -> None:
    found = gramian([jacobian])
    torch.testing.assert_close(found, found.T)
    assert torch.linalg.eigvalsh(found)[0] >= -1e-12 * found.diagonal().max()


def test_a_jacobian_without_columns_has_a_zero_gramian() -> None:
    assert torch.equal(gramian([torch.ones(3, 0)]), torch.zeros(3, 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_is_accumulated_in_single(dtype: torch.dtype) -> None:
    large = torch.full((2, 1000), 300.0, dtype=dtype)
    found = gramian([large])
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (found == 1000 * 300.0**2).all()


def test_blocks_of_unequal_dtypes_are_added_in_the_wider() -> None:
    mixed = [torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(2, 1, dtype=torch.float64)]
    assert gramian(mixed).dtype == torch.float64
    assert torch.equal(gramian(mixed), torch.full((2, 2), 4.0, dtype=torch.float64))


def test_no_block_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        gramian([])


def test_blocks_with_unequal_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"differ in their rows: \[2, 3\]"):
        gramian([torch.ones(2, 4), torch.ones(3, 4)])
    with pytest.raises(ValueError, match=r"differ in their rows: \[2, 3\]"):
        cross_gramian([torch.ones(2, 4)], [torch.ones(3, 4)])


def test_jacobians_with_unequal_numbers_of_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer than argument 1"):
        cross_gramian([torch.ones(2, 4)], [torch.ones(2, 4), torch.ones(2, 1)])


def test_the_weighted_sum_of_blocks_is_that_of_the_joined_jacobian() -> None:
    weights = torch.linspace(-1, 1, 4, dtype=torch.float64)
    found = weighted_sum(blocks(4), weights)
    assert [part.shape for part in found] == [torch.Size(shape) for shape in SHAPES]
    torch.testing.assert_close(
        torch.cat([part.flatten() for part in found]), weights @ joined(blocks(4))
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_weighted_sum_has_the_blocks_dtype_whatever_the_weights(dtype: torch.dtype) -> None:
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    (found,) = weighted_sum([torch.tensor([[1.0], [3.0]], dtype=dtype)], weights)
    assert found.dtype == dtype
    assert found.tolist() == [2.5]


@REPEATABLE
@given(gramians())
def test_norms_and_cosines_give_the_gramian_back(matrix: Tensor) -> None:
    unit, norms = normalised(matrix)
    restored = norms * unit * norms.unsqueeze(1)
    scale = norms * norms.unsqueeze(1) + torch.finfo(torch.float64).tiny
    torch.testing.assert_close(restored / scale, matrix / scale, rtol=0, atol=1e-12)
    assert torch.equal(unit.diagonal(), (norms > 0).double())
    assert unit.abs().max() <= 1.0


def test_cosines_do_not_see_the_lengths() -> None:
    rows = joined(blocks(3))
    lengths = torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64)
    scaled = rows * lengths[:, None]
    torch.testing.assert_close(cosines(scaled @ scaled.T), cosines(rows @ rows.T))


def test_a_zero_row_has_no_direction() -> None:
    unit, norms = normalised(torch.diag(torch.tensor([4.0, 0.0])))
    assert unit.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert norms.tolist() == [2.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_cosines_have_the_gramians_dtype(dtype: torch.dtype) -> None:
    found = cosines(torch.tensor([[4.0, -2.0], [-2.0, 4.0]], dtype=dtype))
    assert found.dtype == dtype
    assert found.tolist() == [[1.0, -0.5], [-0.5, 1.0]]


def test_the_generalized_gramian_is_indexed_by_the_losses() -> None:
    rows = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    flat = rows.reshape(6, 5)
    found = generalized(flat @ flat.T, (2, 3))
    assert found.shape == (2, 3, 3, 2)
    for i, j, k, l in torch.cartesian_prod(*map(torch.arange, (2, 3, 3, 2))):  # noqa: E741
        torch.testing.assert_close(found[i, j, k, l], rows[i, j] @ rows[l, k])


@REPEATABLE
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_the_generalized_gramian_is_torchjds(shape: list[int]) -> None:
    convention = pytest.importorskip("torchjd._linalg._generalized_gramian")
    m = math.prod(shape)
    matrix = torch.arange(m * m, dtype=torch.float64).reshape(m, m)
    assert torch.equal(generalized(matrix, shape), convention.reshape(matrix, shape))


def test_a_shape_with_another_number_of_losses_is_refused() -> None:
    with pytest.raises(ValueError, match=r"losses of shape \[2, 2\] do not have 3 entries"):
        generalized(torch.eye(3), (2, 2))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_value_that_is_not_finite_stays_visible(value: float) -> None:
    jacobian = torch.ones(2, 3)
    jacobian[0, 1] = value
    assert not gramian([jacobian])[0].isfinite().any()
    assert gramian([jacobian])[1, 1] == 3.0
    assert not weighted_sum([jacobian], torch.ones(2))[0][1].isfinite()


def relative_error(found: Tensor, rows: Tensor, others: Tensor | None = None) -> float:
    """The largest error of an inner product, relative to both rows' norms."""
    left, right = rows.double(), (rows if others is None else others).double()
    norms = left.norm(dim=1)[:, None] * right.norm(dim=1)
    return float(
        ((found.double() - left @ right.T) / torch.where(norms > 0, norms, 1.0)).abs().max()
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_ten_million_columns_are_as_exact_as_ten(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = (torch.rand(2, 10**7, generator=generator) ** 4).to(dtype)
    assert relative_error(gramian([rows]), rows) <= 1e-6
    assert relative_error(cross_gramian([rows], [rows.flip(0)]), rows, rows.flip(0)) <= 1e-6
    torch.testing.assert_close(lengths(rows).double(), rows.double().norm(dim=1), rtol=1e-6, atol=0)


ENDS = ([1e-30] * 4, [1e20] * 4, [1e-30, 1.0, 1e20, 1e-5], [1e-44, 0.0, 1e37, 1e-19], [0.0] * 4)


@pytest.mark.parametrize("scales", ENDS, ids=str)
def test_rows_at_the_ends_of_single_precision_keep_their_digits(scales: list[float]) -> None:
    rows = (joined(blocks(4)) * torch.tensor(scales, dtype=torch.float64)[:, None]).float()
    parts = [rows[:, :6], rows[:, 6:]]
    found = gramian(parts)
    assert relative_error(found, rows) <= 1e-6
    assert found.dtype == (torch.float64 if any(scales) else torch.float32)
    assert carried_precision(found.double()) == torch.finfo(torch.float32).eps
    torch.testing.assert_close(
        lengths(rows).double(), rows.double().norm(dim=1), rtol=1e-6, atol=1e-45
    )
    others = joined(blocks(4, seed=1)).float()
    crossed = cross_gramian(parts, [others[:, :6], others[:, 6:]])
    assert relative_error(crossed, rows, others) <= 1e-6


def test_ordinary_rows_beside_zero_ones_stay_in_single_precision() -> None:
    rows = joined(blocks(4, dtype=torch.float32))
    rows[1] = 0.0
    found = gramian([rows])
    assert found.dtype == torch.float32
    assert not found[1].any()


def test_inner_products_without_a_scale_keep_the_digits_that_they_had() -> None:
    product = gramian([joined(blocks(3, dtype=torch.float32))]).double()
    for factor in (1.0, 2.0**-200, 2.0**200):
        found = narrowed(product * factor, (product * factor).diagonal())
        assert found.dtype == (torch.float32 if factor == 1.0 else torch.float64)
        assert torch.equal(found.double(), product * factor)
