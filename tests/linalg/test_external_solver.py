from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from jdframework.errors import ConfigError, SolverError
from jdframework.linalg import nonnegative_qp
from jdframework.linalg.external_solver import external_nonnegative_qp

from .problems import gramian

qpsolvers = pytest.importorskip("qpsolvers")


@pytest.mark.parametrize("problem", ["normal", "hard", "duplicates", "some zero rows", "huge"])
def test_quadprog_reaches_the_same_objective(problem: str) -> None:
    matrix = gramian(problem, 6)
    ours = nonnegative_qp(matrix, matrix)
    theirs = external_nonnegative_qp("quadprog", matrix, matrix)

    def objective(y: Any) -> Any:
        return 0.5 * np.einsum("ik,ij,jk->k", y, matrix, y) + (matrix * y).sum(0)

    scale = np.maximum(matrix.diagonal(), 1e-300)
    np.testing.assert_allclose(objective(theirs) / scale, objective(ours) / scale, atol=1e-8)


def test_an_unknown_solver_is_refused_and_the_installed_ones_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        external_nonnegative_qp("best", np.eye(2), np.eye(2))
    for name in qpsolvers.available_solvers:
        assert name in str(caught.value)
    assert "'exact' is ours" in str(caught.value)


def test_without_qpsolvers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qpsolvers", None)
    with pytest.raises(ConfigError, match=r"pip install 'jdframework\[solvers\]'"):
        external_nonnegative_qp("quadprog", np.eye(2), np.eye(2))


def test_a_solver_without_solution_is_a_solver_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qpsolvers, "solve_qp", lambda *args, **settings: None)
    with pytest.raises(SolverError) as caught:
        external_nonnegative_qp("quadprog", np.eye(3), np.eye(3))
    assert "'quadprog' found no solution: it gives none (m = 3" in str(caught.value)
    assert "try solver='exact'" in str(caught.value)


def test_a_solver_that_raises_is_a_solver_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise ValueError("matrix G is not positive definite")

    monkeypatch.setattr(qpsolvers, "solve_qp", fail)
    with pytest.raises(SolverError, match="matrix G is not positive definite"):
        external_nonnegative_qp("quadprog", np.eye(3), np.eye(3))
