"""Every solver that qpsolvers finds installed can be named, and gives what ours gives."""

from __future__ import annotations

import pytest

import jdframework as jd
from jdframework.testing import FAMILIES

qpsolvers = pytest.importorskip("qpsolvers")

# First-order methods stop at about 1e-5, and the others at their own tolerance on the objective,
# whose root the error of the solution is.
PRECISION = {"quadprog": 1e-8, "daqp": 1e-6, "proxqp": 1e-4, "clarabel": 1e-4, "ecos": 1e-4}
LOOSE = 2e-2
# They take the update for infeasible or unbounded on some of these problems, and say so.
MAY_GIVE_UP = {"highs", "osqp", "scs", "ecos"}


@pytest.mark.filterwarnings("ignore")  # solvers comment on matrices that are not sparse
@pytest.mark.parametrize("method", ["upgrad", "dual-proj", "pcd"])
@pytest.mark.parametrize("solver", qpsolvers.available_solvers)
def test_a_named_solver_gives_the_same_update(method: str, solver: str) -> None:
    tolerance = PRECISION.get(solver, LOOSE)
    for m in (2, 3, 7):
        jacobian = FAMILIES["random"](m)
        try:
            found = jd.aggregator(method, solver=solver)(jacobian)
        except jd.SolverError:
            if solver not in MAY_GIVE_UP:
                raise
            continue
        expected = jd.aggregator(method)(jacobian)
        error = float((found - expected).norm() / expected.norm())
        assert error <= tolerance, f"m = {m}: off by {error:.1e}"


def test_several_solvers_are_installed_here() -> None:
    assert {"quadprog", "clarabel"} <= set(qpsolvers.available_solvers)


def test_the_methods_that_solve_a_quadratic_program_take_a_solver() -> None:
    for name in ("upgrad", "dual-proj", "pcd"):
        assert "solver" in jd.describe(name).config_schema["properties"]
        with pytest.raises(
            jd.ConfigError,
            match=f"{name}: solver = 'nobody' was given, but .* is not installed; qpsolvers finds",
        ):
            jd.weighting(name, solver="nobody")
