"""Two rows in closed form: the same solution as by the general way, or none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jdframework.linalg import nonnegative, nonnegative_qp
from jdframework.linalg.pair import pair_solution
from jdframework.linalg.unit_problem import kkt_residual, row_normalised
from jdframework.testing.strategies import REPEATABLE

ANGLES = st.floats(0.0, math.pi) | st.sampled_from([0.0, math.pi, math.pi / 2, math.pi - 1e-9])
NUMBERS = st.floats(-1.0, 1.0) | st.sampled_from([0.0, 1.0, -1.0])


@REPEATABLE
@given(ANGLES, st.integers(-8, 8), st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4))
def test_every_condition_of_optimality_holds(
    angle: float, power: int, directions: list[tuple[float, float]]
) -> None:
    rows = np.array([[1.0, 0.0], [math.cos(angle), math.sin(angle)]]) * [[10.0**power], [1.0]]
    matrix, linear = rows @ rows.T, rows @ np.array(directions).T
    found = pair_solution(matrix, linear)
    if found is None:
        assert angle > 3.1
        return
    unit, scaled, undo = row_normalised(matrix, linear)
    residual = kkt_residual(unit, scaled, found / undo)
    assert (found >= 0.0).all()
    assert (residual <= 1e-12 * (1 + np.abs(found / undo).max(axis=0))).all()


def test_opposite_rows_are_served() -> None:
    matrix = np.array([[1.0, -1.0], [-1.0, 1.0]])
    found = pair_solution(matrix, matrix)
    assert found is not None
    np.testing.assert_array_equal(matrix @ (np.eye(2) + found), np.zeros((2, 2)))


def test_what_takes_more_care_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, linear = np.array([[4.0, 1.0], [1.0, 1.0]]), np.array([[-3.0, 1.0], [2.0, -2.0]])
    expected = nonnegative_qp(matrix, linear)
    monkeypatch.setattr(nonnegative, "pair_solution", lambda *_: None)
    np.testing.assert_allclose(nonnegative_qp(matrix, linear), expected, atol=1e-12)
