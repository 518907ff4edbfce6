"""Gradients that are made orthogonal and equally long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from scipy.linalg.lapack import dgejsv
from threadpoolctl import ThreadpoolController, threadpool_limits
from torch import Tensor

import jdframework as jd
from jdframework import linalg
from jdframework.testing import AggregatorSuite, WeightingSuite

PREFERENCES = [0.2, -1.0, 3.0]
MODES = ["min", "median", "rmse"]


def rows(m: int, n: int, seed: int, decades: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    jacobian = torch.randn(m, n, generator=generator, dtype=torch.float64)
    return jacobian * torch.logspace(0, -decades, m, dtype=torch.float64)[:, None]


def balance(gramian: Tensor, mode: str) -> Tensor:
    """The matrix ``B`` that maps preferences to weights, from one call per column."""
    columns = [
        jd.weighting("aligned-mtl", scale_mode=mode, pref_vector=unit)(gramian)
        for unit in torch.eye(len(gramian))
    ]
    return torch.stack(columns, dim=1)


def misalignment(gramian: Tensor, mode: str) -> float:
    """How far ``Bᵀ J`` is from orthogonal, equally long rows, of the right length."""
    matrix, rank = balance(gramian, mode), int(torch.linalg.matrix_rank(linalg.cosines(gramian)))
    if rank == 0:
        return float(matrix.abs().max())
    aligned = matrix.T @ gramian @ matrix
    common = aligned.trace() / rank
    # Common times a projection, by a symmetric matrix:
    spread = (aligned @ aligned - common * aligned).norm() / common.square()
    skew = (matrix - matrix.T).norm() / matrix.norm()
    ratios = torch.linalg.eigvalsh(matrix)[-rank:]
    length = {
        "min": ratios[-1] - 1,
        "median": ratios[rank // 2] - 1,
        "rmse": common / (gramian.trace() / rank) - 1,
    }[mode]
    return float(torch.stack([spread, skew, length.abs()]).max())


class TestAlignedMTL(WeightingSuite):
    spec = "aligned-mtl"

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        mean = balance(gramian, "min").mean(1)
        return max(misalignment(gramian, "min"), float((weights - mean).abs().max()))


class TestAlignedMTLAggregator(AggregatorSuite):
    spec = "aligned-mtl"


class TestAlignedMTLMedian(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "aligned-mtl", "scale_mode": "median"}

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        return misalignment(gramian, "median")


class TestAlignedMTLRootMeanSquare(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "aligned-mtl", "scale_mode": "rmse"}

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        return misalignment(gramian, "rmse")


class TestAlignedMTLWithPreferences(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "aligned-mtl", "pref_vector": PREFERENCES}
    objectives = (3,)
    permutation_equivariant = False


def test_orthogonal_gradients_are_all_shortened_to_the_shortest() -> None:
    jacobian = torch.diag(torch.tensor([4.0, 1.0, 9.0]))
    direction = jd.aggregator("aligned-mtl")(jacobian)
    torch.testing.assert_close(direction, torch.full((3,), 1 / 3))


@pytest.mark.parametrize(("mode", "length"), [("min", 1.0), ("median", 2.0), ("rmse", 7.5**0.5)])
def test_the_mode_decides_the_common_length(mode: str, length: float) -> None:
    # Of an even number of singular values, the lower of the two in the middle.
    jacobian = torch.diag(torch.tensor([4.0, 1.0, 3.0, 2.0], dtype=torch.float64))
    direction = jd.aggregator("aligned-mtl", scale_mode=mode)(jacobian)
    torch.testing.assert_close(direction, torch.full_like(direction, length / 4))


@pytest.mark.parametrize("mode", MODES)
def test_a_gradient_a_million_times_shorter_still_counts(mode: str) -> None:
    jacobian = rows(3, 10, seed=3, decades=12)
    weights = torch.stack(
        [
            jd.weighting("aligned-mtl", scale_mode=mode, pref_vector=unit)(jacobian @ jacobian.T)
            for unit in torch.eye(3)
        ]
    )
    lengths = (weights @ jacobian).norm(dim=1)
    torch.testing.assert_close(lengths, lengths[:1].expand(3), rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_very_different_lengths_become_orthogonal_to_the_last_digits(
    mode: str,
) -> None:
    for seed in range(60):
        jacobian = torch.nn.functional.normalize(rows(6, 9, seed))
        generator = torch.Generator().manual_seed(seed)
        decades = 12 * torch.rand(6, 1, generator=generator, dtype=torch.float64) - 6
        jacobian = jacobian * 10**decades
        aligned = balance(jacobian @ jacobian.T, mode).T @ jacobian
        products = aligned @ aligned.T
        expected = torch.eye(6, dtype=torch.float64) * products.trace() / 6
        assert (products - expected).norm() <= 1e-9 * products.norm(), seed


def test_a_rank_that_single_precision_hides_is_found() -> None:
    # In float32, rounding gives the third eigenvalue, which is zero, a value of about 1e-7.
    jacobian = rows(2, 1000, seed=0)
    jacobian = torch.cat([jacobian, jacobian.sum(0, keepdim=True)])
    single = jacobian.float() @ jacobian.float().T
    found = jd.weighting("aligned-mtl")(single).double()
    expected = jd.weighting("aligned-mtl")(jacobian @ jacobian.T)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_update_jumps_where_two_gradients_become_parallel() -> None:
    def length(angle: float) -> float:
        second = [torch.tensor(angle).cos(), torch.tensor(angle).sin()]
        jacobian = torch.tensor([[1.0, 0.0], second], dtype=torch.float64)
        return float(jd.aggregator("aligned-mtl")(jacobian).norm())

    assert length(1e-2) == pytest.approx(5e-3, rel=1e-3)
    assert length(1e-4) == pytest.approx(5e-5, rel=1e-3)
    assert length(0.0) == pytest.approx(1.0)


def test_where_the_mean_gradient_vanishes_so_do_the_weights() -> None:
    jacobian = rows(5, 10, seed=0)
    gramian = linalg.gramian([jacobian - jacobian.mean(0)])
    assert not jd.weighting("aligned-mtl")(gramian).any()


@pytest.mark.parametrize("m", [2, 4])
def test_preferences_of_another_length_are_refused_with_both_numbers(m: int) -> None:
    message = f"aligned-mtl: pref_vector has 3 values, but there are {m} objectives"
    with pytest.raises(jd.ConfigError, match=message):
        jd.weighting("aligned-mtl", pref_vector=PREFERENCES)(torch.eye(m))


@pytest.mark.parametrize("mode", ["mean", "MIN", 1, None])
def test_an_unknown_mode_is_refused_with_the_known_ones(mode: object) -> None:
    with pytest.raises(jd.ConfigError, match="aligned-mtl: scale_mode.*'min', 'median' or 'rmse'"):
        jd.weighting("aligned-mtl", scale_mode=mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("preferences", [None, PREFERENCES])
def test_torchjd_gives_the_same_for_gradients_of_like_norms(
    mode: str, preferences: list[float] | None
) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    chosen = None if preferences is None else torch.tensor(preferences, dtype=torch.float64)
    theirs = aggregation.AlignedMTL(chosen, scale_mode=mode)
    ours = jd.aggregator("aligned-mtl", pref_vector=preferences, scale_mode=mode)
    for seed in range(20):
        for jacobian in (rows(3, 8, seed, decades=1), rows(3, 2, seed)):
            torch.testing.assert_close(ours(jacobian), theirs(jacobian), rtol=1e-5, atol=1e-9)


def test_torchjd_drops_a_short_gradient() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = torch.diag(torch.tensor([1.0, 1e-9], dtype=torch.float64))
    ours, theirs = jd.aggregator("aligned-mtl"), aggregation.AlignedMTL()
    torch.testing.assert_close(
        ours(jacobian), torch.full_like(jacobian[0], 5e-10), atol=0.0, rtol=1e-9
    )
    torch.testing.assert_close(theirs(jacobian), torch.tensor([0.5, 0.0]).double())


def test_four_gradients_wake_no_thread_of_lapack(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watched(*given: Any, **options: Any) -> Any:
        libraries = ThreadpoolController().select(user_api="blas").info()
        seen.extend(library["num_threads"] for library in libraries)
        return dgejsv(*given, **options)

    monkeypatch.setattr("scipy.linalg.lapack.dgejsv", watched)
    jacobian = rows(4, 2, seed=0) * torch.tensor([[1.0], [1e-3], [1.0], [1.0]])
    with threadpool_limits(2, user_api="blas"):
        jd.weighting("aligned-mtl")(jacobian @ jacobian.T)
    assert set(seen) == {1}
