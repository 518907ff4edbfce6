from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from scipy.optimize import nnls

from jdframework.errors import SolverError
from jdframework.linalg import nonnegative, nonnegative_qp
from jdframework.linalg.external_solver import external_nonnegative_qp
from jdframework.linalg.interior import balanced_solution
from jdframework.linalg.unit_problem import Array, kkt_residual, row_normalised
from jdframework.testing.strategies import REPEATABLE, jacobians

from .problems import PROBLEMS, gramian, jacobian


def residual(matrix: Array, linear: Array, solution: Array) -> float:
    """The KKT residual in the row-normalised problem's own units."""
    unit, scaled, undo = row_normalised(matrix, linear)
    back = np.divide(solution, undo, out=np.zeros_like(solution), where=undo > 0)
    return float(kkt_residual(unit, scaled, back).max(initial=0.0))


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("m", [1, 2, 3, 5, 8, 13, 32, 33, 64])
def test_every_problem_is_solved_to_nine_digits(problem: str, m: int) -> None:
    for seed in range(4 if m < 32 else 1):
        matrix = gramian(problem, m, seed)
        assert residual(matrix, matrix, nonnegative_qp(matrix, matrix)) <= 1e-9


@pytest.mark.parametrize("problem", ["normal", "mild", "hard", "duplicates", "huge", "tiny"])
@pytest.mark.parametrize("m", [4, 16, 48, 128])
def test_ordinary_problems_are_solved_to_the_last_digits(problem: str, m: int) -> None:
    matrix = gramian(problem, m)
    assert residual(matrix, matrix, nonnegative_qp(matrix, matrix)) <= 2e-12


@pytest.mark.parametrize("problem", ["normal", "mild", "duplicates", "nearly parallel, 1e-6"])
def test_two_hundred_and_fifty_six_rows_are_solved(problem: str) -> None:
    matrix = gramian(problem, 256)
    assert residual(matrix, matrix, nonnegative_qp(matrix, matrix)) <= 1e-9


@REPEATABLE
@given(jacobians())
def test_any_problem_is_solved(rows: object) -> None:
    array = np.asarray(rows)
    matrix = array @ array.T
    assert residual(matrix, matrix, nonnegative_qp(matrix, matrix)) <= 1e-9


@pytest.mark.parametrize("m", [2, 7, 32, 40])
def test_the_solution_is_that_of_quadprog(m: int) -> None:
    matrix = gramian("mild", m)
    linear = np.random.default_rng(m).standard_normal((m, 5))
    expected = external_nonnegative_qp("quadprog", matrix, linear)
    np.testing.assert_allclose(nonnegative_qp(matrix, linear), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("problem", ["normal", "mild", "norms from 1e-6 to 1e6", "hard"])
@pytest.mark.parametrize("m", [3, 32, 40])
def test_the_fitted_vectors_are_those_of_least_squares_on_the_rows(problem: str, m: int) -> None:
    rows = jacobian(problem, m)
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    found = rows.T @ nonnegative_qp(rows @ rows.T, rows @ rows.T)
    for column, row in zip(found.T, rows, strict=True):
        expected = rows.T @ nnls(np.ascontiguousarray(rows.T), -row)[0]
        np.testing.assert_allclose(column, expected, atol=1e-7)


def test_columns_do_not_influence_each_other() -> None:
    matrix = gramian("normal", 40)
    linear = np.random.default_rng(0).standard_normal((40, 9))
    together = nonnegative_qp(matrix, linear)
    for j in range(9):
        alone = nonnegative_qp(matrix, linear[:, [j]])
        np.testing.assert_allclose(together[:, [j]], alone, rtol=1e-6, atol=1e-12)


def test_one_variable_has_its_closed_form() -> None:
    found = nonnegative_qp(np.array([[4.0]]), np.array([[-2.0, 3.0, 0.0]]))
    np.testing.assert_allclose(found, [[0.5, 0.0, 0.0]], rtol=1e-15, atol=0)


def test_no_column_gives_no_column() -> None:
    assert nonnegative_qp(np.eye(3), np.zeros((3, 0))).shape == (3, 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("problem", ["hard", "opposites", "rank one", "nearly opposite, 1e-6"])
@pytest.mark.parametrize("m", [3, 20, 64])
def test_rounding_that_makes_a_gramian_indefinite_does_no_harm(
    problem: str, m: int, dtype: type
) -> None:
    rounded = gramian(problem, m).astype(dtype).astype(np.float64)
    solution = nonnegative_qp(rounded, rounded)
    assert (solution >= 0.0).all()
    norms = np.sqrt(rounded.diagonal())
    assert (solution * norms[:, None]).max() <= 1e3 * norms.max()


def wrong_point(upper: Array, target: Array, maxiter: int) -> tuple[Array, float]:
    """What scipy's nnls was seen to do: a point that is not optimal, and no word about it."""
    return np.ones(len(target)), 0.0


def no_end(upper: Array, target: Array, maxiter: int) -> tuple[Array, float]:
    raise RuntimeError("Maximum number of iterations reached.")


def nothing(unit: Array, linear: Array, patience: int = 0) -> Array:
    return np.zeros_like(linear)


@pytest.mark.parametrize("broken", [wrong_point, no_end])
@pytest.mark.parametrize("problem", ["normal", "hard", "duplicates", "norms from 1e-6 to 1e6"])
@pytest.mark.parametrize("m", [2, 6, 20, 40])
def test_a_failing_nnls_is_found_out_and_made_good(
    broken: object, problem: str, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scipy.optimize.nnls", broken)
    matrix = gramian(problem, m)
    assert residual(matrix, matrix, nonnegative_qp(matrix, matrix)) <= 1e-9


def test_a_better_solution_is_not_replaced_by_a_worse_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def tiring(upper: Array, target: Array, maxiter: int) -> tuple[Array, float]:
        nonlocal calls
        calls += 1
        return nnls(upper, target) if calls <= 5 else wrong_point(upper, target, maxiter)

    monkeypatch.setattr("scipy.optimize.nnls", tiring)
    monkeypatch.setattr(nonnegative, "pivoted", nothing)
    matrix = gramian("opposite pairs, 1e-3", 5, seed=16)
    assert residual(matrix, matrix, nonnegative_qp(matrix, matrix)) <= 1e-9
    assert calls > 5, "choose a problem that takes more than one round"


@pytest.mark.parametrize("m", [5, 40])
def test_what_pivoting_leaves_is_made_good(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonnegative, "pivoted", nothing)
    matrix = gramian("hard", m)
    assert residual(matrix, matrix, nonnegative_qp(matrix, matrix)) <= 1e-9


@pytest.mark.parametrize("m", [5, 40])
def test_when_everything_fails_the_error_says_how_far_it_got(
    m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nonnegative, "pivoted", nothing)
    monkeypatch.setattr("scipy.optimize.nnls", no_end)
    matrix = gramian("opposites", m)
    with pytest.raises(SolverError) as caught:
        nonnegative_qp(matrix, matrix)
    assert "KKT residual is 1.0e+00" in str(caught.value)
    assert f"m = {m}, condition number " in str(caught.value)


@pytest.mark.parametrize("problem", ["normal", "mild", "hard", "duplicates"])
def test_one_column_of_many_rows_is_solved_to_the_last_digits(problem: str) -> None:
    matrix = gramian(problem, 520)
    linear = matrix.mean(axis=1, keepdims=True)
    assert residual(matrix, linear, nonnegative_qp(matrix, linear)) <= 1e-12


def test_rows_that_balance_out_have_the_solutions_of_their_balance() -> None:
    rows = np.random.default_rng(0).standard_normal((120, 20))  # whose dual cone is zero
    unit, scaled, _ = row_normalised(rows @ rows.T, rows @ rows.T)
    found = balanced_solution(unit, scaled)
    assert found is not None
    assert (found >= 0.0).all()
    assert kkt_residual(unit, scaled, found).max() <= 1e-11
    np.testing.assert_allclose(unit @ found, -scaled, atol=1e-11)


@pytest.mark.parametrize("problem", ["agreeing", "normal", "mild"])
def test_rows_that_do_not_balance_out_have_no_balance(problem: str) -> None:
    matrix = gramian(problem, 64)
    unit, scaled, _ = row_normalised(matrix, matrix)
    assert balanced_solution(unit, scaled) is None
