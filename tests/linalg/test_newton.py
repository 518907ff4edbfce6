from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from jdframework.errors import SolverError
from jdframework.linalg import min_norm_weights, newton
from jdframework.linalg.newton import fair_residual, fair_weights
from jdframework.linalg.unit_problem import Array
from jdframework.testing.strategies import REPEATABLE, gramians

from .problems import PROBLEMS, gramian

ALPHAS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)


def solved(matrix: Array, alpha: float = 1.0, weights: Array | None = None) -> Array:
    weights = np.ones(len(matrix)) if weights is None else weights
    return fair_weights(torch.from_numpy(matrix), torch.from_numpy(weights), alpha).numpy()


def check(matrix: Array, found: Array, alpha: float) -> None:
    """Each finite solution solves its equations; an infinite one has a reason."""
    present = matrix.diagonal() > 0
    assert np.isinf(found[~present]).all()
    rest, found = matrix[np.ix_(present, present)], found[present]
    if not present.any():
        return
    if np.isfinite(found).all():
        assert (found > 0).all()
        assert fair_residual(rest, np.ones(len(rest)), 1 / alpha, found) <= 1e-8
    else:
        assert np.isinf(found).all()
        norms = np.sqrt(rest.diagonal())
        unit = rest / norms / norms[:, None]
        shortest = min_norm_weights(torch.from_numpy(unit)).numpy()
        assert shortest @ unit @ shortest <= 1e-5


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_equations_hold_to_eight_digits(problem: str, alpha: float) -> None:
    for m in (1, 2, 3, 8, 40):
        matrix = gramian(problem, m)
        check(matrix, solved(matrix, alpha), alpha)


@REPEATABLE
@given(gramians(), st.sampled_from(ALPHAS))
def test_any_gramian_is_solved_or_stationary(matrix: Tensor, alpha: float) -> None:
    check(matrix.numpy(), solved(matrix.numpy(), alpha), alpha)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_ordinary_problems_need_no_excuse(alpha: float) -> None:
    for m in (2, 5, 20):
        matrix = gramian("mild", m)
        found = solved(matrix, alpha)
        assert np.isfinite(found).all()
        np.testing.assert_allclose((matrix @ found) * found ** (1 / alpha), 1.0, rtol=1e-10)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_weights_of_the_barrier_count(alpha: float) -> None:
    matrix, weights = gramian("mild", 6), np.linspace(0.1, 30.0, 6)
    found = solved(matrix, alpha, weights)
    np.testing.assert_allclose((matrix @ found) * found ** (1 / alpha), weights, rtol=1e-10)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_orthogonal_rows_have_their_closed_form(alpha: float) -> None:
    squares = np.array([1e-12, 1e-3, 1.0, 7.0, 1e12])
    np.testing.assert_allclose(
        solved(np.diag(squares), alpha), squares ** (-1 / (1 + 1 / alpha)), rtol=1e-12
    )


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("factor", [1e-24, 1e-6, 1e6, 1e24])
def test_scaling_the_gramian_scales_by_a_known_power(factor: float, alpha: float) -> None:
    matrix = gramian("normal", 5)
    expected = solved(matrix, alpha) * factor ** (-1 / (1 + 1 / alpha))
    np.testing.assert_allclose(solved(factor * matrix, alpha), expected, rtol=1e-9)


def test_stationary_rows_have_no_finite_solution() -> None:
    assert np.isinf(solved(np.array([[1.0, -1.0], [-1.0, 1.0]]))).all()
    third = np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert np.isinf(solved(third)).all()


def test_a_zero_row_concerns_no_other() -> None:
    assert solved(np.diag([4.0, 0.0, 0.25])).tolist() == pytest.approx([0.5, np.inf, 2.0])
    assert np.isinf(solved(np.zeros((3, 3)))).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_gives_nan(value: float) -> None:
    matrix = torch.eye(3)
    matrix[0, 0] = value
    assert fair_weights(matrix, torch.ones(3), 1.0).isnan().all()


def test_a_failure_is_a_solver_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "_ORDINARY", 1)
    monkeypatch.setattr(newton, "_STEPS", 1)
    monkeypatch.setattr(newton, "_POLISHES", 0)
    with pytest.raises(SolverError, match="m = 5, alpha = 1"):
        solved(gramian("normal", 5))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("seed", range(12))
def test_rows_that_nearly_cancel_out_leave_the_others_exact(seed: int, alpha: float) -> None:
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((3 + seed % 4, 20))
    rows[1] = 3e-6 * generator.standard_normal(20) - 3.0 * rows[0]
    matrix = rows @ rows.T
    check(matrix, solved(matrix, alpha), alpha)
