from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from jdframework.errors import SolverError
from jdframework.linalg import min_norm, min_norm_weights, nonnegative
from jdframework.linalg.min_norm import duality_gap
from jdframework.linalg.unit_problem import Array
from jdframework.testing.strategies import REPEATABLE, gramians

from .problems import PROBLEMS, gramian, jacobian

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def weights_of(matrix: Array) -> Array:
    found = min_norm_weights(torch.from_numpy(matrix)).numpy()
    assert (found >= 0.0).all()
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    return found


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("m", [1, 2, 3, 5, 16, 40, 100])
def test_the_duality_gap_is_below_nine_digits(problem: str, m: int) -> None:
    matrix = gramian(problem, m)
    assert duality_gap(matrix, weights_of(matrix)) <= 1e-9


@pytest.mark.parametrize("problem", ["normal", "mild", "huge", "tiny", "agreeing"])
@pytest.mark.parametrize("m", [2, 8, 64, 256])
def test_of_ordinary_problems_no_gap_needs_an_excuse(problem: str, m: int) -> None:
    matrix = gramian(problem, m)
    products = matrix @ weights_of(matrix)
    value = weights_of(matrix) @ products
    assert (value - products.min()) / value <= 1e-10


@pytest.mark.parametrize("problem", ["normal", "mild", "hard", "duplicates", "opposites"])
@pytest.mark.parametrize("m", [40, 128, 256])
def test_the_quick_ways_end_where_the_general_one_does(
    problem: str, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = gramian(problem, m)
    quick = weights_of(matrix)
    monkeypatch.setattr(min_norm, "_MANY", m)
    general = weights_of(matrix)
    assert duality_gap(matrix, quick) <= 1e-9
    difference = quick - general
    assert difference @ matrix @ difference <= 1e-20 * matrix.diagonal().min()


@pytest.mark.parametrize("seed", range(3))
def test_of_dependent_rows_in_single_precision_zero_is_found(seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((200, 60)).astype(np.float32)
    weights = weights_of((rows @ rows.T).astype(np.float64))
    assert np.linalg.norm(weights @ rows) <= 1e-5 * np.linalg.norm(rows, axis=1).min()


@REPEATABLE
@given(gramians())
def test_any_gramian_has_no_duality_gap(matrix: Tensor) -> None:
    assert duality_gap(matrix.numpy(), weights_of(matrix.numpy())) <= 1e-9


@pytest.mark.parametrize("m", [3, 9, 30])
def test_quadprog_finds_no_shorter_vector(m: int) -> None:
    qpsolvers = pytest.importorskip("qpsolvers")
    matrix = gramian("mild", m)
    theirs = qpsolvers.solve_qp(
        matrix, np.zeros(m), None, None, np.ones((1, m)), np.ones(1), lb=np.zeros(m),
        solver="quadprog",
    )  # fmt: skip
    np.testing.assert_allclose(weights_of(matrix), theirs, rtol=1e-6, atol=1e-9)


def test_two_rows_have_their_closed_form() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        rows = random.standard_normal((2, 3)) * 10.0 ** random.uniform(-6, 6, (2, 1))
        short, long = sorted(rows, key=lambda row: float(np.linalg.norm(row)))
        edge = short - long
        expected = short - np.clip((short @ edge) / (edge @ edge), 0.0, 1.0) * edge
        found = weights_of(rows @ rows.T) @ rows
        np.testing.assert_allclose(found, expected, atol=1e-9 * np.linalg.norm(short))


@pytest.mark.parametrize("m", [2, 3, 20, 60])
def test_where_zero_is_in_the_hull_it_is_found(m: int) -> None:
    random = np.random.default_rng(0)
    rows = jacobian("normal", m)
    rows[-1] = -random.uniform(0.1, 1.0, m - 1) @ rows[:-1]
    for norms in (np.ones((m, 1)), 10.0 ** random.uniform(-6, 6, (m, 1))):
        unequal = norms * rows
        shortest = weights_of(unequal @ unequal.T) @ unequal
        assert np.linalg.norm(shortest) <= 1e-7 * np.linalg.norm(unequal, axis=1).min()


@pytest.mark.parametrize("norms", [(1e6, 1e-2, 1e-6), (1e6, 1e-4, 1e-6), (1e-6, 1e6, 1e3, 1.0)])
def test_a_long_rows_small_weight_has_all_its_digits(norms: tuple[float, ...]) -> None:
    squares = np.array(norms) ** 2
    found = min_norm_weights(torch.from_numpy(np.diag(squares))).numpy()
    np.testing.assert_allclose(found, 1 / squares / (1 / squares).sum(), rtol=1e-9)


@pytest.mark.parametrize("seed", [1047, 1788, 2166])
def test_dependent_rows_of_unequal_norms_have_no_update_longer_than_a_row(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    exponents = 12 * torch.rand(8, 1, generator=generator, dtype=torch.float64) - 6
    rows = (rows * 10**exponents).float()
    update = min_norm_weights(rows @ rows.T) @ rows
    assert update.norm() <= 1e-3 * rows.norm(dim=1).min()


def test_zero_rows_share_the_weight() -> None:
    rows = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 1.0], [0.0, 0.0]])
    assert min_norm_weights(rows @ rows.T).tolist() == [0.0, 0.5, 0.0, 0.5]
    assert min_norm_weights(torch.zeros(5, 5)).tolist() == pytest.approx([0.2] * 5)


@pytest.mark.parametrize("factor", [1e-150, 1e-12, 1e12, 1e150])
def test_the_scale_of_the_jacobian_does_not_matter(factor: float) -> None:
    for m in (2, 7):
        matrix = gramian("normal", m)
        np.testing.assert_allclose(
            weights_of(matrix * factor**2), weights_of(matrix), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("m", [2, 3, 40])
def test_the_largest_numbers_do_not_overflow(m: int) -> None:
    largest = 1e308 * torch.eye(m, dtype=torch.float64)
    assert min_norm_weights(largest).tolist() == pytest.approx([1 / m] * m)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_is_handed_back_and_only_the_result_is_rounded(dtype: torch.dtype) -> None:
    matrix = torch.from_numpy(gramian("normal", 5)).to(dtype)
    expected = min_norm_weights(matrix.double()).to(dtype)
    assert torch.equal(min_norm_weights(matrix), expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("m", [1, 2, 5])
def test_what_is_not_finite_gives_nan(value: float, m: int) -> None:
    matrix = torch.eye(m)
    matrix[0, 0] = value
    assert min_norm_weights(matrix).isnan().all()


def test_a_failure_is_a_solver_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(unit: Array, linear: Array, patience: int = 0) -> Array:
        return np.zeros_like(linear)

    monkeypatch.setattr(nonnegative, "least_squares", lambda f, _: np.full(f.shape[1], np.nan))
    monkeypatch.setattr(nonnegative, "pivoted", nothing)
    with pytest.raises(SolverError, match="m = 3"):
        min_norm_weights(torch.eye(3))


def test_the_gap_sees_what_is_not_optimal() -> None:
    matrix = np.diag([1.0, 4.0])
    assert duality_gap(matrix, np.array([0.8, 0.2])) == 0.0
    assert duality_gap(matrix, np.array([0.5, 0.5])) == pytest.approx(0.75 / 1.25)
