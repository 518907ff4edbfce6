from __future__ import annotations

import numpy as np
import pytest

from jdframework.linalg.low_rank import low_rank_factor
from jdframework.linalg.unit_problem import Array, unit_rows


def rows(m: int, n: int, seed: int = 0) -> Array:
    jacobian = np.random.default_rng(seed).standard_normal((m, n))
    return np.asarray(jacobian / np.linalg.norm(jacobian, axis=1)[:, None])


def factor_of(unit: Array) -> Array:
    factor = low_rank_factor(unit)
    assert factor is not None
    return factor


@pytest.mark.parametrize(("m", "n"), [(1, 3), (5, 2), (60, 20), (200, 100), (20, 60)])
def test_the_factor_has_one_row_for_each_independent_row(m: int, n: int) -> None:
    unit = unit_rows(rows(m, n) @ rows(m, n).T)[0]
    factor = factor_of(unit)
    assert factor.shape == (min(m, n), m)
    np.testing.assert_allclose(factor.T @ factor, unit, atol=1e-13)


@pytest.mark.parametrize(("m", "n"), [(40, 20), (200, 100)])
def test_the_rounding_of_single_precision_is_not_taken_for_rank(m: int, n: int) -> None:
    single = rows(m, n).astype(np.float32)
    rounded = (single @ single.T).astype(np.float64)
    assert np.linalg.eigvalsh(rounded)[0] < -1e-8
    factor = factor_of(rounded)
    assert len(factor) == n
    np.testing.assert_allclose(factor.T @ factor, rounded, atol=4e-6)


@pytest.mark.parametrize("angle", [1e-6, 1e-5, 1e-4])
def test_nearly_dependent_rows_are_not_taken_for_dependent(angle: float) -> None:
    near = rows(50, 60)
    near[25:] = near[:25] + angle * near[25:]
    assert low_rank_factor(unit_rows(near @ near.T)[0]) is None


def test_coarser_rounding_is_left_to_others() -> None:
    noise = 1e-4 * np.random.default_rng(0).standard_normal((40, 40))
    np.fill_diagonal(noise, 0.0)
    assert low_rank_factor(rows(40, 20) @ rows(40, 20).T + noise + noise.T) is None
