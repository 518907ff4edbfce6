from __future__ import annotations

import pytest
import torch
from hypothesis import given
from torch import Tensor

from jdframework.linalg import normalised, pseudo_solve
from jdframework.testing.strategies import REPEATABLE, gramians

from .problems import PROBLEMS, gramian

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("m", [1, 2, 5, 30])
def test_what_is_in_the_range_is_reproduced(problem: str, m: int) -> None:
    matrix = normalised(torch.from_numpy(gramian(problem, m))).cosines
    right = matrix @ torch.linspace(-1, 1, m, dtype=torch.float64)
    torch.testing.assert_close(matrix @ pseudo_solve(matrix, right), right, rtol=0, atol=1e-9)


@REPEATABLE
@given(gramians())
def test_it_is_the_shortest_solution(matrix: Tensor) -> None:
    matrix = normalised(matrix).cosines
    found = pseudo_solve(matrix, matrix[0], tolerance=1e-10)
    expected = torch.linalg.pinv(matrix, hermitian=True, rtol=1e-10) @ matrix[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_eigenvalues_up_to_the_tolerance_count_as_zero() -> None:
    matrix, right = torch.diag(torch.tensor([1.0, 1e-3])), torch.ones(2)
    assert pseudo_solve(matrix, right, tolerance=1e-2).tolist() == [1.0, 0.0]
    assert pseudo_solve(matrix, right, tolerance=1e-4).tolist() == pytest.approx([1.0, 1e3])


def test_zero_solves_to_zero() -> None:
    assert pseudo_solve(torch.zeros(3, 3), torch.ones(3)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_is_handed_back(dtype: torch.dtype) -> None:
    found = pseudo_solve(
        torch.tensor([[2.0, 0.0], [0.0, 4.0]], dtype=dtype), torch.ones(2).to(dtype)
    )
    assert found.dtype == dtype
    assert found.tolist() == pytest.approx([0.5, 0.25])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_gives_nan(value: float) -> None:
    matrix, right = torch.eye(3), torch.ones(3)
    matrix[1, 2] = value
    assert pseudo_solve(matrix, right).isnan().all()
    right[0] = value
    assert pseudo_solve(torch.eye(3), right).isnan().all()
