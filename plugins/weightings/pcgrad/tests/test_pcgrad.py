"""PCGrad: the published algorithm, with random orders of its own."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.linalg import normalised
from jdframework.testing import FAMILIES, WeightingSuite


def orders_of(seed: int, m: int, calls: int = 1) -> list[list[int]]:
    """The orders of the last of several calls, as the method draws them."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(calls):
        keys = torch.rand(m, m, generator=generator, dtype=torch.float64)
    return [[j for j in keys[i].argsort().tolist() if j != i] for i in range(m)]


def published(jacobian: Tensor, orders: Sequence[Sequence[int]]) -> Tensor:
    """Algorithm 1, on the gradients themselves, one by one."""
    total = torch.zeros_like(jacobian[0])
    for i, order in enumerate(orders):
        gradient = jacobian[i].clone()
        for j in order:
            product = gradient @ jacobian[j]
            if product < 0:
                gradient -= product / (jacobian[j] @ jacobian[j]) * jacobian[j]
        total += gradient
    return total


def update(jacobian: Tensor, **settings: object) -> Tensor:
    return jd.weighting("pcgrad", **settings)(jacobian @ jacobian.T) @ jacobian


class TestPCGrad(WeightingSuite):
    spec = "pcgrad"
    permutation_equivariant = False

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The same as the published algorithm on vectors that have this Gramian."""
        cosines, norms = normalised(gramian)
        values, vectors = torch.linalg.eigh(cosines)
        jacobian = norms[:, None] * vectors * values.clamp(min=0).sqrt()
        expected = published(jacobian, orders_of(0, len(gramian)))
        scale = float(norms.sum()) or 1.0
        return float((weights @ jacobian - expected).norm()) / scale


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("m", [1, 2, 5, 12])
def test_all_at_once_is_one_after_the_other(family: str, m: int) -> None:
    jacobian = FAMILIES[family](m)
    expected = published(jacobian, orders_of(3, m))
    error = (update(jacobian, seed=3) - expected).norm()
    assert error <= 1e-8 * jacobian.norm()


def test_of_two_objectives_the_update_conflicts_with_neither() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        jacobian = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        jacobian *= 10.0 ** (12 * torch.rand(2, 1, generator=generator) - 6)
        cosines = jacobian @ update(jacobian) / jacobian.norm(dim=1)
        assert (cosines >= -1e-12 * jacobian.norm()).all()


def test_without_conflict_the_gradients_are_summed() -> None:
    gramian = torch.tensor([[1.0, 0.5], [0.5, 3.0]])
    assert jd.weighting("pcgrad")(gramian).tolist() == [1.0, 1.0]


def test_the_mean_is_the_sum_divided_by_the_number_of_objectives() -> None:
    jacobian = FAMILIES["random"](5)
    torch.testing.assert_close(
        5 * update(jacobian, seed=1, reduction="mean"), update(jacobian, seed=1)
    )


def test_each_objective_has_a_random_order_of_its_own() -> None:
    # Three gradients in a plane, 120 degrees apart up to a little, conflict in each order.
    angles = torch.tensor([0.0, 2.0, 4.3], dtype=torch.float64)
    jacobian = torch.stack([angles.cos(), angles.sin()], 1)
    possible = {
        orders: published(jacobian, orders)
        for orders in itertools.product(
            itertools.permutations([1, 2]),
            itertools.permutations([0, 2]),
            itertools.permutations([0, 1]),
        )
    }
    updates = torch.stack(list(possible.values()))
    assert (torch.cdist(updates, updates) + torch.eye(8) > 1e-3).all()
    method = jd.weighting("pcgrad", seed=0)
    counts: Counter[object] = Counter()
    for _ in range(1600):
        found = method(jacobian @ jacobian.T) @ jacobian
        [orders] = [o for o, expected in possible.items() if (found - expected).norm() < 1e-9]
        counts[orders] += 1
    # All eight combinations are equally likely: 200 each, within five standard deviations.
    assert len(counts) == 8
    assert all(abs(count - 200) < 5 * 200**0.5 for count in counts.values())


def test_a_zero_gradient_keeps_weight_one_and_changes_nothing() -> None:
    jacobian = FAMILIES["random"](2)
    padded = torch.cat([jacobian, torch.zeros(1, jacobian.shape[1], dtype=torch.float64)])
    weights = jd.weighting("pcgrad", seed=0)(padded @ padded.T)
    assert weights[2] == 1.0
    torch.testing.assert_close(weights @ padded, update(jacobian))


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(jd.ConfigError, match="pcgrad: reduction = 'max'"):
        jd.weighting("pcgrad", reduction="max")


@pytest.mark.parametrize("m", [2, 3, 8])
def test_torchjd_gives_the_same_in_the_same_orders(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    for seed in range(10):
        jacobian = FAMILIES["random"](m, seed)
        orders = iter([*order, i] for i, order in enumerate(orders_of(seed, m)))
        monkeypatch.setattr(torch, "randperm", lambda _, left=orders: torch.tensor(next(left)))
        theirs = aggregation.PCGradWeighting()(jacobian @ jacobian.T)
        ours = jd.weighting("pcgrad", seed=seed)(jacobian @ jacobian.T)
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
