from __future__ import annotations

import numpy as np
import pytest

from jdframework.linalg import pivoting
from jdframework.linalg.pivoting import pivoted, solve_free
from jdframework.linalg.splitting import Splitting
from jdframework.linalg.unit_problem import Array, kkt_residual, row_normalised

from .problems import gramian


def unit_problem(problem: str, m: int, seed: int = 0, ridge: float = 0.0) -> tuple[Array, Array]:
    matrix = gramian(problem, m, seed)
    matrix += ridge * matrix.trace() * np.eye(m)
    return row_normalised(matrix, matrix)[:2]


def settled(unit: Array, linear: Array, patience: int = 0) -> int:
    """How many columns pivoting solves."""
    found = pivoted(unit, linear, patience)
    return int((kkt_residual(unit, linear, found) <= 1e-9).sum())


@pytest.mark.parametrize("problem", ["normal", "mild", "duplicates", "rank one", "agreeing"])
@pytest.mark.parametrize("m", [2, 10, 64])
def test_pivoting_alone_solves_ordinary_problems(problem: str, m: int) -> None:
    unit, linear = unit_problem(problem, m)
    assert kkt_residual(unit, linear, pivoted(unit, linear)).max() <= 1e-10


@pytest.mark.parametrize("m", [64, 128])
def test_pivoting_alone_solves_hard_problems_that_are_regularised(m: int) -> None:
    for seed in range(3):
        assert settled(*unit_problem("hard", m, seed, ridge=1e-4)) >= m - 3


@pytest.mark.parametrize("seed", [1, 2])
def test_pivoting_alone_solves_problems_with_a_continuum_of_solutions(seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((60, 12))
    unit, linear, _ = row_normalised(rows @ rows.T, rows @ rows.T)
    assert np.linalg.matrix_rank(unit) == 12
    assert settled(unit, linear) == 60


def test_a_column_that_the_first_guess_leaves_gets_a_longer_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unit, linear = unit_problem("hard", 64, seed=3)
    both = settled(unit, linear)
    monkeypatch.setattr(pivoting, "_BLOCKS", pivoting._BLOCKS[:1])
    assert settled(unit, linear) < both


def test_a_column_on_which_pivoting_does_not_end_comes_back_zero() -> None:
    unit, linear = unit_problem("hard", 64, seed=0)
    solution = pivoted(unit, linear)
    solved = kkt_residual(unit, linear, solution) <= 1e-9
    assert 0 < solved.sum() < 64, "choose a problem of which pivoting solves a part"
    assert not solution[:, ~solved].any()


def test_patience_ends_where_full_exchanges_go_in_circles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Splitting, "free", property(lambda self: self._iterate > -np.inf))
    unit, linear = unit_problem("hard", 16, seed=3)
    assert settled(unit, linear, patience=2000) == 16
    monkeypatch.setattr(pivoting, "_last_true", lambda mask: mask)
    assert settled(unit, linear, patience=2000) < 16, "choose a problem that does"


def test_free_variables_solve_their_own_equations() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((6, 9))
    definite = rows @ rows.T
    right = random.standard_normal((6, 4))
    free = random.random((6, 4)) < 0.5
    free[:, 0], free[:, 1] = False, True
    free[:, 3] = free[:, 2]
    found = solve_free(definite, right, free)
    assert not found[~free].any()
    np.testing.assert_allclose((definite @ found)[free], right[free], atol=1e-12)
