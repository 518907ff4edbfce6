from __future__ import annotations

import numpy as np
import pytest

from jdframework.linalg.low_rank import semidefinite
from jdframework.linalg.unit_problem import kkt_residual, ridge, row_normalised

from .problems import gramian


def test_the_normalised_problem_has_the_same_solution() -> None:
    matrix = np.array([[4.0, 2.0], [2.0, 100.0]])
    linear = np.array([[-8.0, 1.0], [-30.0, 0.0]])
    unit, scaled, undo = row_normalised(matrix, linear)
    np.testing.assert_allclose(unit, [[1.0, 0.1], [0.1, 1.0]])
    assert np.abs(scaled).max(axis=0).tolist() == [1.0, 1.0]
    solution = np.linalg.solve(unit, -scaled) * undo
    np.testing.assert_allclose(matrix @ solution, -linear, atol=1e-12)


def test_zero_rows_and_zero_columns_stay_zero() -> None:
    unit, scaled, undo = row_normalised(np.diag([4.0, 0.0]), np.zeros((2, 1)))
    assert unit.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert scaled.tolist() == [[0.0], [0.0]]
    assert undo[1].tolist() == [0.0]


def test_a_semidefinite_matrix_is_left_alone() -> None:
    unit, linear, _ = row_normalised(gramian("hard", 9), gramian("hard", 9))
    same, also_same, factor = semidefinite(unit, linear)
    assert same is unit
    assert also_same is linear
    np.testing.assert_allclose(factor @ factor.T, unit + ridge(9) * np.eye(9), atol=1e-15)


def test_an_indefinite_matrix_gives_a_bounded_problem() -> None:
    unit = row_normalised(gramian("hard", 9), gramian("hard", 9))[0]
    noise = 1e-7 * np.random.default_rng(0).standard_normal((9, 9))
    unit += noise + noise.T
    mended, projected, factor = semidefinite(unit, unit)
    assert np.linalg.eigvalsh(unit)[0] < -1e-8
    assert np.linalg.eigvalsh(mended)[0] >= -1e-14
    np.testing.assert_allclose(mended, unit, atol=1e-6)
    inside = mended @ np.linalg.lstsq(mended, projected, rcond=1e-12)[0]
    np.testing.assert_allclose(projected, inside, atol=1e-12)
    np.testing.assert_allclose(factor @ factor.T, mended + ridge(9) * np.eye(9), atol=1e-15)


@pytest.mark.parametrize(
    ("solution", "residual"),
    [((1.0, 0.0), 0.0), ((0.9, 0.0), 0.1), ((1.0, 0.25), 1.25), ((1.0, -0.5), 0.5)],
)
def test_the_residual_is_the_largest_violation(
    solution: tuple[float, float], residual: float
) -> None:
    linear = np.array([[-1.0], [1.0]])
    found = kkt_residual(np.eye(2), linear, np.array([solution]).T)
    assert found.tolist() == pytest.approx([residual])
