from __future__ import annotations

import numpy as np
import pytest

from jdframework.linalg import min_norm
from jdframework.linalg.interior import interior_solution
from jdframework.linalg.min_norm import duality_gap
from jdframework.linalg.unit_problem import Array, kkt_residual

from .problems import PROBLEMS, gramian
from .test_min_norm import weights_of


def unit_of(problem: str, m: int) -> Array:
    matrix = gramian(problem, m)
    norms = np.sqrt(matrix.diagonal())
    return matrix / norms / norms[:, None]


@pytest.mark.parametrize("problem", ["normal", "mild", "hard", "duplicates", "agreeing"])
@pytest.mark.parametrize("m", [1, 3, 16, 100])
def test_the_conditions_of_optimality_hold(problem: str, m: int) -> None:
    unit = unit_of(problem, m)
    linear = unit @ np.random.default_rng(m).standard_normal((m, 3))
    found = interior_solution(unit, linear)
    assert (found >= 0.0).all()
    assert kkt_residual(unit, linear, found).max() <= 1e-9


def test_columns_are_solved_each_by_itself() -> None:
    unit = unit_of("mild", 20)
    linear = unit @ np.random.default_rng(0).standard_normal((20, 3))
    alone = [interior_solution(unit, linear[:, [column]]) for column in range(3)]
    np.testing.assert_allclose(interior_solution(unit, linear), np.hstack(alone), atol=1e-12)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_of_many_rows_the_duality_gap_is_below_nine_digits(problem: str) -> None:
    matrix = gramian(problem, 560)
    assert duality_gap(matrix, weights_of(matrix)) <= 1e-9


def test_many_dependent_rows_go_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(unit: Array, linear: Array) -> Array:
        asked.append(len(unit))
        return interior_solution(unit, linear)

    monkeypatch.setattr(min_norm, "interior_solution", counted)
    weights_of(gramian("hard", 560))
    assert asked == [560]
