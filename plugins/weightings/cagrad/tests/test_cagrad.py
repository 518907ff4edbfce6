"""CAGrad: the maximiser of the worst improvement, exactly, at any scale."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import jdframework as jd
from jdframework.linalg import min_norm_weights, project_on_dual_cone
from jdframework.testing import FAMILIES, WeightingSuite
from jdframework.testing.strategies import REPEATABLE, gramians


def residual(gramian: Tensor, weights: Tensor, c: float) -> float:
    """How far the update is from the maximiser, relative to each gradient and to the mean one.

    With ``w`` the dual's weights, no feasible update improves the worst objective by more than
    ``w·Jd'`` at the best ``d'`` in the ball. The update has to be in the ball, and each objective's
    improvement has to reach that bound, or the one of the min-norm ``w``.
    """
    m = len(gramian)
    scale = gramian.diagonal().max().sqrt()
    if not scale:
        return float((weights - 1 / m).abs().max())
    gramian = gramian / scale**2
    mean = torch.full((m,), 1 / m, dtype=torch.float64)
    beyond = weights - mean
    length = float((mean @ gramian @ mean).clamp(min=0).sqrt())
    radius = c * length
    outside = float((beyond @ gramian @ beyond).clamp(min=0).sqrt()) - radius
    found = [max(outside, 0.0), float((-beyond).clamp(min=0).max())]
    duals = [min_norm_weights(gramian), beyond / beyond.sum()] if radius > 1e-8 else []
    short, norms = torch.inf, gramian.diagonal().sqrt()
    for dual in duals:
        bound = float(dual @ gramian @ mean)
        bound += radius * float((dual @ gramian @ dual).clamp(min=0).sqrt())
        # The length of what is zero is known up to the root of a rounding error.
        bound -= radius * 1e-7 * float(dual @ norms)
        reach = ((1 + c) * length * norms).clamp(min=1e-300)
        improvements = gramian @ weights
        short = min(short, float(((bound - improvements) / reach).max()))
    if duals:
        found.append(short)
    return max(found)


class TestCAGrad(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "cagrad", "c": 0.5}

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The duality gap, and the way to the ball."""
        return residual(gramian, weights, 0.5)


@pytest.mark.parametrize("c", [0.0, 1e-3, 0.1, 0.4, 0.9, 1.0, 2.0, 20.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_radius_is_solved(family: str, c: float) -> None:
    for m in (1, 2, 3, 8, 30):
        jacobian = FAMILIES[family](m)
        gramian = jacobian @ jacobian.T
        assert residual(gramian, jd.weighting("cagrad", c=c)(gramian), c) <= 1e-8, m


@REPEATABLE
@given(gramians(), st.floats(0.01, 2.0))
def test_any_gramian_is_solved(gramian: Tensor, c: float) -> None:
    assert residual(gramian, jd.weighting("cagrad", c=c)(gramian), c) <= 1e-8


@pytest.mark.parametrize("m", [2, 3, 6])
def test_no_direction_in_the_ball_helps_the_worst_objective_more(m: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    for seed in range(5):
        jacobian = FAMILIES["random"](m, seed).numpy()
        mean = jacobian.mean(0)
        radius = 0.7 * np.linalg.norm(mean)
        start = np.append(mean, (jacobian @ mean).min())
        best = optimize.minimize(
            lambda x: -x[-1],
            start,
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-14},
            constraints=[
                {"type": "ineq", "fun": lambda x, j=jacobian: j @ x[:-1] - x[-1]},
                {
                    "type": "ineq",
                    "fun": lambda x, g=mean, r=radius: r**2 - np.sum((x[:-1] - g) ** 2),
                },
            ],
        )
        weights = jd.weighting("cagrad", c=0.7)(torch.from_numpy(jacobian @ jacobian.T)).numpy()
        np.testing.assert_allclose(weights @ jacobian, best.x[:-1], rtol=1e-4, atol=1e-5)
        assert (jacobian @ (weights @ jacobian)).min() >= -best.fun - 1e-8


@pytest.mark.parametrize(("angle", "precision"), [(1e-2, 1e-8), (1e-3, 1e-8), (1e-6, 1e-4)])
@pytest.mark.parametrize("c", [0.5, 3.0])
def test_nearly_opposite_gradients_are_solved(angle: float, precision: float, c: float) -> None:
    for m, seed in itertools.product((2, 5, 12), range(5)):
        jacobian = FAMILIES["opposite rows"](m, seed) + angle * FAMILIES["random"](m, seed)
        gramian = jacobian @ jacobian.T
        assert residual(gramian, jd.weighting("cagrad", c=c)(gramian), c) <= precision


def test_without_a_radius_it_is_the_mean() -> None:
    jacobian = FAMILIES["random"](4)
    assert jd.weighting("cagrad", c=0)(jacobian @ jacobian.T).tolist() == [0.25] * 4


@pytest.mark.parametrize("square", [1e-20, 1.0, 1e20])
def test_one_objective_goes_to_the_end_of_the_ball(square: float) -> None:
    gramian = torch.tensor([[square]], dtype=torch.float64)
    assert jd.weighting("cagrad", c=0.5)(gramian).item() == pytest.approx(1.5)


def test_gradients_that_are_all_zero_or_sum_to_zero_get_the_mean() -> None:
    row = FAMILIES["random"](1)
    for jacobian in (torch.zeros(2, 3, dtype=torch.float64), torch.cat([row, -row])):
        assert jd.weighting("cagrad", c=0.5)(jacobian @ jacobian.T).tolist() == [0.5, 0.5]


def test_where_no_direction_helps_all_it_is_the_nearest_that_harms_none() -> None:
    # Two opposite gradients, and a third that helps the first: only across them is no harm.
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.5, 1.0]], dtype=torch.float64)
    weights = jd.weighting("cagrad", c=0.9)(jacobian @ jacobian.T)
    torch.testing.assert_close(weights @ jacobian, torch.tensor([0, 1 / 3], dtype=torch.float64))


@pytest.mark.parametrize(
    ("dtype", "short"), [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.float32, 1e-3)]
)
def test_short_gradients_do_not_hide_that_long_ones_cancel_out(
    dtype: torch.dtype, short: float
) -> None:
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        long = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        shares = 0.1 + torch.rand(1, 3, generator=generator, dtype=torch.float64)
        across = short * (1 + torch.rand(3, 2, generator=generator, dtype=torch.float64))
        jacobian = torch.block_diag(torch.cat([long, -shares @ long]), across).to(dtype)
        weights = jd.weighting("cagrad", c=2.0)(jacobian @ jacobian.T)
        given = jacobian.double()
        mean = torch.full((1, 7), 1 / 7, dtype=torch.float64)
        nearest = (project_on_dual_cone(given @ given.T, mean) @ given)[0]
        missed = (weights.double() @ given - nearest).norm()
        assert missed <= 1e-3 * given.mean(0).norm()


def test_a_zero_gradient_does_not_stop_the_others() -> None:
    jacobian = torch.tensor([[2.0, 0.0], [0.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    weights = jd.weighting("cagrad", c=0.5)(jacobian @ jacobian.T)
    torch.testing.assert_close(weights @ jacobian, jacobian.mean(0))


@pytest.mark.parametrize(("rescale", "divisor"), [("c", 1.4), ("c2", 1.16)])
def test_rescaling_divides_the_update(rescale: str, divisor: float) -> None:
    jacobian = FAMILIES["random"](4)
    gramian = jacobian @ jacobian.T
    expected = jd.weighting("cagrad", c=0.4)(gramian) / divisor
    torch.testing.assert_close(jd.weighting("cagrad", c=0.4, rescale=rescale)(gramian), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"c": -0.1}, "c = -0.1"),
        ({"c": float("nan")}, "c = nan"),
        ({"c": 0.5, "rescale": 1}, "rescale = 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(jd.ConfigError, match=message):
        jd.weighting("cagrad", **settings)


@pytest.mark.parametrize("m", [2, 3, 10])
def test_torchjd_agrees_to_its_solvers_precision_and_is_never_better(m: int) -> None:
    """CLARABEL's optimum is off by about 1e-8, and its point therefore by the root of that."""
    pytest.importorskip("cvxpy")
    aggregation = pytest.importorskip("torchjd.aggregation")
    theirs = aggregation.CAGradWeighting(c=0.5)
    for seed in range(5):
        jacobian = FAMILIES["random"](m, seed)
        gramian = jacobian @ jacobian.T
        ours = jd.weighting("cagrad", c=0.5)(gramian)
        peer = theirs(gramian)
        torch.testing.assert_close(ours @ jacobian, peer @ jacobian, rtol=2e-3, atol=2e-4)
        assert worst(gramian, ours) >= worst(gramian, peer) - 1e-12


def worst(gramian: Tensor, weights: Tensor) -> float:
    """What CAGrad maximises: the smallest inner product with a gradient, within the ball."""
    mean = gramian.mean(0)
    radius = 0.5 * gramian.mean().sqrt()
    step = weights - 1 / len(weights)
    length = (step @ gramian @ step).clamp(min=0.0).sqrt()
    inside = (radius / length).clamp(max=1.0)
    return float((mean + inside * (gramian @ step)).min())


def test_torchjd_is_zero_on_small_gradients() -> None:
    pytest.importorskip("cvxpy")
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = FAMILIES["random"](3)
    gramian = 1e-8 * jacobian @ jacobian.T
    assert not aggregation.CAGradWeighting(c=0.5)(gramian).any()
    assert jd.weighting("cagrad", c=0.5)(gramian).all()


def test_opposite_gradients_get_in_single_precision_what_they_get_in_double() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        jacobian = torch.randn(5, 9, generator=generator)
        jacobian[1], jacobian[3] = -jacobian[0], -jacobian[2]
        found = jd.aggregator("cagrad", c=0.5)(jacobian).double()
        expected = jd.aggregator("cagrad", c=0.5)(jacobian.double())
        assert (found - expected).norm() <= 1e-3 * jacobian.norm(dim=1).mean()


def test_gradients_whose_squares_half_precision_loses_stop_no_step() -> None:
    generator = torch.Generator().manual_seed(0)
    method = jd.weighting("cagrad", c=2.0)
    for _ in range(100):
        jacobian = torch.randn(8, 5, generator=generator)
        jacobian *= 10 ** (-6 * torch.rand(8, 1, generator=generator))
        gramian = (jacobian @ jacobian.T).half()
        lost = gramian.diagonal() == 0
        assert method(gramian).isfinite().all()
        assert (method(gramian)[lost] >= 0).all()
    assert lost.any()
