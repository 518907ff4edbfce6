"""The same problem, given to any solver that qpsolvers finds installed."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np

from jdframework.errors import ConfigError, SolverError
from jdframework.linalg.unit_problem import Array, on_positive_rows, row_normalised


def external_nonnegative_qp(solver: str, matrix: Array, linear: Array) -> Array:
    """:func:`~jdframework.linalg.nonnegative_qp` by a solver of another library.

    The problem is row-normalised first; 1e-10 on the diagonal makes it definite for solvers that
    ask for that.

    :param solver: Its name in qpsolvers.
    :param matrix: ``[m, m]``.
    :param linear: ``[m, k]``.
    :raises ConfigError: if qpsolvers or the solver is not installed.
    :raises SolverError: if the solver finds no solution.
    """
    return on_positive_rows(partial(_solve, solver, _solve_qp(solver)), matrix, linear)


def _solve(solver: str, solve_qp: Any, matrix: Array, linear: Array) -> Array:
    unit, scaled, undo = row_normalised(matrix, linear)
    regular = unit + 1e-10 * np.eye(len(unit))
    columns = []
    for column in scaled.T:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # solvers comment on sparsity and missing bounds
                found = solve_qp(regular, column.copy(), lb=np.zeros(len(unit)), solver=solver)
        except Exception as error:  # each solver has its own
            raise SolverError(_failure(solver, regular, str(error))) from error
        if found is None:
            raise SolverError(_failure(solver, regular, "it gives none"))
        columns.append(np.maximum(found, 0.0))
    return np.asarray(np.stack(columns, axis=1) * undo)


def _failure(solver: str, matrix: Array, reason: str) -> str:
    return (
        f"the solver {solver!r} found no solution: {reason} (m = {len(matrix)}, condition number "
        f"{np.linalg.cond(matrix):.1e}); try solver='exact'"
    )


def check_installed(solver: str) -> None:
    """Refuses a solver that qpsolvers does not find.

    :param solver: Its name in qpsolvers.
    :raises ConfigError: naming those that it finds.
    """
    try:
        import qpsolvers
    except ImportError:
        raise ConfigError(
            f"the solver {solver!r} needs qpsolvers: pip install 'jdframework[solvers]'"
        ) from None
    if solver not in qpsolvers.available_solvers:
        installed = ", ".join(sorted(qpsolvers.available_solvers)) or "none"
        raise ConfigError(
            f"the solver {solver!r} is not installed; qpsolvers finds {installed}, and 'exact' is "
            "ours"
        )


def _solve_qp(solver: str) -> Any:
    check_installed(solver)
    from qpsolvers import solve_qp

    return solve_qp
