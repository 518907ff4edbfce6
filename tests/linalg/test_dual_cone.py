from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from jdframework.errors import ConfigError, SolverError
from jdframework.linalg import nonnegative, project_on_dual_cone
from jdframework.linalg.dual_cone import cone_residual
from jdframework.linalg.unit_problem import Array
from jdframework.testing.strategies import REPEATABLE, gramians

from .problems import PROBLEMS, gramian

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def residual(matrix: Tensor, vectors: Tensor, solver: str = "exact") -> float:
    found = project_on_dual_cone(matrix, vectors, solver)
    return cone_residual(matrix.numpy(), vectors.numpy(), found.numpy())


def identity(m: int) -> Tensor:
    return torch.eye(m, dtype=torch.float64)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("m", [1, 2, 4, 9, 32, 50])
def test_every_projection_fulfils_its_kkt_conditions(problem: str, m: int) -> None:
    matrix = torch.from_numpy(gramian(problem, m))
    assert residual(matrix, identity(m)) <= 1e-9


@REPEATABLE
@given(gramians())
def test_any_projection_fulfils_its_kkt_conditions(matrix: Tensor) -> None:
    assert residual(matrix, identity(len(matrix))) <= 1e-9


def test_negative_and_mixed_vectors_are_projected() -> None:
    matrix = torch.from_numpy(gramian("normal", 6))
    vectors = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert residual(matrix, vectors) <= 1e-12


def test_a_vector_in_the_cone_stays() -> None:
    matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    vectors = torch.tensor([[1.0, 0.0], [0.5, 2.0]])
    assert torch.equal(project_on_dual_cone(matrix, vectors), vectors)


def test_projecting_twice_is_projecting_once() -> None:
    rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matrix = rows @ rows.T
    once = project_on_dual_cone(matrix, identity(5))
    torch.testing.assert_close(project_on_dual_cone(matrix, once), once, rtol=0, atol=1e-12)


def test_two_rows_have_their_closed_form() -> None:
    random = torch.Generator().manual_seed(2)
    for _ in range(50):
        rows = torch.randn(2, 3, generator=random, dtype=torch.float64)
        matrix = rows @ rows.T
        conflict = (-matrix[0, 1]).clamp(min=0.0)
        expected = torch.tensor(
            [[1.0, conflict / matrix[1, 1]], [conflict / matrix[0, 0], 1.0]], dtype=torch.float64
        )
        found = project_on_dual_cone(matrix, identity(2))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("problem", ["normal", "mild", "norms from 1e-6 to 1e6", "tiny", "huge"])
@pytest.mark.parametrize("m", [3, 8, 40])
def test_quadprog_gives_the_same_projections(problem: str, m: int) -> None:
    pytest.importorskip("quadprog")
    matrix = torch.from_numpy(gramian(problem, m))
    norms = matrix.diagonal().sqrt()
    ours = project_on_dual_cone(matrix, identity(m)) * norms / norms[:, None]
    theirs = project_on_dual_cone(matrix, identity(m), solver="quadprog") * norms / norms[:, None]
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [1e-150, 1e-12, 1e12, 1e150])
def test_the_scale_of_the_jacobian_does_not_matter(factor: float) -> None:
    matrix = torch.from_numpy(gramian("normal", 7))
    expected = project_on_dual_cone(matrix, identity(7))
    scaled = project_on_dual_cone(matrix * factor**2, identity(7))
    torch.testing.assert_close(scaled, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_is_handed_back_and_only_the_result_is_rounded(dtype: torch.dtype) -> None:
    matrix = torch.from_numpy(gramian("normal", 5)).to(dtype)
    found = project_on_dual_cone(matrix, torch.eye(5))
    expected = project_on_dual_cone(matrix.double(), identity(5))
    assert found.dtype == dtype
    assert torch.equal(found, expected.to(dtype))


def test_a_graph_strides_and_unequal_halves_do_not_matter() -> None:
    matrix = torch.from_numpy(gramian("normal", 5))
    expected = project_on_dual_cone(matrix, identity(5))
    tilted = (matrix + torch.triu(torch.full_like(matrix, 1e-15), 1)).requires_grad_()
    found = project_on_dual_cone(tilted.T, identity(10)[::2, ::2])
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("solver", ["exact", "quadprog"])
def test_what_is_not_finite_gives_nan(value: float, solver: str) -> None:
    matrix, vectors = identity(3), identity(3)[:2]
    matrix[0, 1] = value
    assert project_on_dual_cone(matrix, vectors, solver).isnan().all()
    vectors[1, 1] = value
    found = project_on_dual_cone(identity(3), vectors, solver)
    assert found.isnan().all()
    assert found.shape == (2, 3)


def test_a_solver_that_qpsolvers_does_not_find_is_refused() -> None:
    with pytest.raises(ConfigError, match="the solver 'best' is not installed; qpsolvers finds"):
        project_on_dual_cone(identity(2), identity(2), solver="best")


def test_a_failure_is_a_solver_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(unit: Array, linear: Array, patience: int = 0) -> Array:
        return np.zeros_like(linear)

    monkeypatch.setattr(nonnegative, "least_squares", lambda f, _: np.full(f.shape[1], np.nan))
    monkeypatch.setattr(nonnegative, "pivoted", nothing)
    conflict = torch.tensor([[1.0, -0.5, 0.0], [-0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(SolverError, match="m = 3"):
        project_on_dual_cone(conflict, torch.eye(3))


def test_the_residual_sees_each_kind_of_violation() -> None:
    matrix = np.array([[1.0, -0.5], [-0.5, 1.0]])
    unit = np.eye(2)[:1]
    assert cone_residual(matrix, unit, np.array([[1.0, 0.5]])) == pytest.approx(0.0)
    below_u = cone_residual(matrix, unit, np.array([[0.9, 0.45]]))
    conflicting = cone_residual(matrix, unit, np.array([[1.0, 0.0]]))
    too_much = cone_residual(matrix, unit, np.array([[1.0, 0.9]]))
    assert (below_u, conflicting, too_much) == pytest.approx((0.1, 0.5, 0.4))


@pytest.mark.parametrize("seed", range(40))
def test_a_combination_that_vanishes_stays_as_it_is(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    m = 3 + seed % 10
    rows = torch.randn(m, 20, generator=generator, dtype=torch.float64)
    rows[-1] = -rows[:-1].sum(0)
    noise = torch.randn(m, m, generator=generator, dtype=torch.float64)
    gramian = rows @ rows.T
    gramian += 1e-16 * gramian.diagonal().max() * (noise + noise.T)
    equal = torch.full((1, m), 1 / m, dtype=torch.float64)
    found = project_on_dual_cone(gramian, equal)
    assert float(found @ gramian @ found.T) <= 1e-12 * float(gramian.diagonal().max())


@pytest.mark.parametrize("combination", [(-1.0, 0.0), (-1.0, -0.5)])
@pytest.mark.parametrize("m", [4, 5, 16])
def test_in_single_precision_rows_that_cancel_out_leave_no_conflict(
    m: int, combination: tuple[float, float]
) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        rows = torch.randn(m, 2 * m, generator=generator)
        rows[2] = combination[0] * rows[0] + combination[1] * rows[1]
        found = project_on_dual_cone(rows @ rows.T, torch.eye(m) / m)
        norms = rows.norm(dim=1)
        least = (rows @ (found.sum(0) @ rows)) / norms
        assert least.min() >= -1e-5 * norms.mean()
