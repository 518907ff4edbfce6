"""MGDA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.linalg import cosines
from jdframework.linalg.min_norm import duality_gap
from jdframework.testing import FAMILIES, Family, WeightingSuite


class TestMGDA(WeightingSuite):
    spec = "mgda"
    optimality_tolerance: ClassVar[float] = 1e-9

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The duality gap, and the distance from the simplex."""
        outside = abs(float(weights.sum()) - 1) + float((-weights).clamp(min=0.0).max())
        return duality_gap(gramian.numpy(), weights.numpy()) + outside


class TestMGDAOfUnitGradients(WeightingSuite):
    # Where unit gradients cancel out, several weights solve the problem, with other updates.
    spec: ClassVar[Mapping[str, Any]] = {"name": "mgda", "normalize": "l2"}
    permutation_equivariant = False
    scale = None
    optimality_tolerance: ClassVar[float] = 1e-9

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The duality gap of the rescaled problem."""
        return duality_gap(cosines(gramian).numpy(), weights.numpy())


class TestMGDAOfGradientsOverLosses(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "mgda", "normalize": "loss"}
    permutation_equivariant = False
    scale = None


class TestMGDAOfUnitGradientsOverLosses(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "mgda", "normalize": "loss+"}
    permutation_equivariant = False
    scale = None


def normal(seed: int, m: int, n: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, n, generator=generator, dtype=torch.float64)


def length(jacobian: Tensor, weights: Tensor) -> float:
    return float((weights @ jacobian).norm())


@pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
@pytest.mark.parametrize("m", [2, 5, 20, 64])
def test_the_duality_gap_is_closed_on_every_family(family: Family, m: int) -> None:
    for seed in range(3):
        jacobian = family(m, seed)
        matrix = jacobian @ jacobian.T
        assert duality_gap(matrix.numpy(), jd.weighting("mgda")(matrix).numpy()) <= 1e-9


@pytest.mark.parametrize("m", [2, 3, 10, 50])
def test_every_projection_on_the_update_is_at_least_its_squared_length(m: int) -> None:
    for seed in range(10):
        jacobian = normal(seed, m, n=100)
        update = jd.aggregator("mgda")(jacobian)
        assert (jacobian @ update).min() >= (1 - 1e-9) * update.square().sum()


def test_two_objectives_have_their_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        rows = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        exponents = 12 * torch.rand(2, 1, generator=generator, dtype=torch.float64) - 6
        jacobian = rows * 10.0**exponents
        short, long = jacobian[jacobian.norm(dim=1).argsort()]
        edge = short - long
        expected = short - (short @ edge / edge.square().sum()).clamp(0.0, 1.0) * edge
        found = jd.weighting("mgda")(jacobian @ jacobian.T) @ jacobian
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(short.norm()))


def test_orthogonal_gradients_are_weighted_by_their_inverse_squares() -> None:
    squares = torch.tensor([1e-12, 1.0, 4.0, 1e12], dtype=torch.float64)
    found = jd.weighting("mgda")(squares.diag())
    torch.testing.assert_close(found, (1 / squares) / (1 / squares).sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("m", [2, 3, 5, 10, 20, 40])
def test_the_update_is_never_longer_than_torchjds(m: int) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    for seed in range(5):
        for jacobian in (normal(seed, m), normal(seed, m, n=max(1, m // 2)), normal(seed, m) + 0.3):
            matrix = jacobian @ jacobian.T
            theirs = length(jacobian, aggregation.MGDAWeighting()(matrix))
            assert length(jacobian, jd.weighting("mgda")(matrix)) <= theirs + 1e-7


def test_torchjd_stops_above_the_optimum_and_we_do_not() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    excess = []
    for seed in range(10):
        jacobian = normal(seed, m=20, n=40)
        matrix = jacobian @ jacobian.T
        ours = jd.weighting("mgda")(matrix)
        theirs = aggregation.MGDAWeighting()(matrix)
        assert duality_gap(matrix.numpy(), ours.numpy()) <= 1e-9
        excess.append((length(jacobian, theirs) / length(jacobian, ours)) ** 2 - 1)
    assert min(excess) >= 0.0
    assert max(excess) > 0.01, "torchjd has mended this"


@pytest.mark.parametrize("m", [2, 5, 20])
def test_where_zero_is_in_the_hull_the_update_vanishes(m: int) -> None:
    jacobian = normal(1, m)
    jacobian[-1] = -torch.linspace(0.5, 1.5, m - 1, dtype=torch.float64) @ jacobian[:-1]
    for norms in (torch.ones(m, dtype=torch.float64), torch.logspace(-6, 6, m).double()):
        rows = norms[:, None] * jacobian
        assert length(rows, jd.weighting("mgda")(rows @ rows.T)) <= 1e-7 * rows.norm(dim=1).min()


def test_opposite_gradients_cancel_in_proportion_to_their_lengths() -> None:
    jacobian = torch.tensor([[3.0, 4.0], [-6.0, -8.0]])
    torch.testing.assert_close(
        jd.weighting("mgda")(jacobian @ jacobian.T), torch.tensor([2 / 3, 1 / 3])
    )


def test_duplicates_do_not_change_the_update() -> None:
    jacobian = normal(2, m=4)
    expected = jd.aggregator("mgda")(jacobian)
    twice = torch.cat([jacobian, jacobian[1:3]])
    torch.testing.assert_close(jd.aggregator("mgda")(twice), expected, rtol=0, atol=1e-10)


def test_a_vanishing_gradient_stops_the_others() -> None:
    jacobian = normal(3, m=3)
    jacobian[1] = 0.0
    assert jd.weighting("mgda")(jacobian @ jacobian.T).tolist() == [0.0, 1.0, 0.0]
    assert not jd.aggregator("mgda")(jacobian).any()


def test_vanishing_gradients_share_the_weight() -> None:
    assert jd.weighting("mgda")(torch.zeros(4, 4)).tolist() == [0.25] * 4


def test_one_objective_keeps_its_gradient() -> None:
    assert jd.weighting("mgda")(torch.tensor([[7.0]])).tolist() == [1.0]


def rescaled(matrix: Tensor, losses: Tensor, mode: str) -> Tensor:
    """The Gramian of the gradients as ``normalize`` divides them."""
    matrix = cosines(matrix) if mode in ("l2", "loss+") else matrix
    return matrix if mode == "l2" else matrix / losses / losses[:, None]


def given(losses: Tensor, mode: str) -> dict[str, Tensor]:
    return {} if mode == "l2" else {"losses": losses}


@pytest.mark.parametrize("mode", ["l2", "loss", "loss+"])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
def test_the_duality_gap_of_the_rescaled_problem_is_closed(family: Family, mode: str) -> None:
    for m in (1, 2, 5, 20):
        for decades in (0.0, 2.0, 6.0):
            jacobian = family(m)
            matrix = jacobian @ jacobian.T
            losses = torch.logspace(-decades / 2, decades / 2, m, dtype=torch.float64).flip(0)
            weights = jd.weighting("mgda", normalize=mode)(matrix, **given(losses, mode))
            problem = rescaled(matrix, losses / losses.max(), mode)
            assert duality_gap(problem.numpy(), weights.numpy()) <= 1e-9
            assert weights.min() >= 0.0
            assert weights.sum().item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("mode", ["l2", "loss", "loss+"])
def test_where_the_solution_is_unique_order_and_scale_do_not_matter(mode: str) -> None:
    for m in (2, 3, 7):
        jacobian, order = normal(m, m), torch.arange(m).roll(1).flip(0)
        losses = torch.linspace(0.1, 3.0, m, dtype=torch.float64)
        method = jd.weighting("mgda", normalize=mode)
        expected = method(jacobian @ jacobian.T, **given(losses, mode))
        for factor in (1e-12, 1.0, 1e12):
            rows = factor * jacobian[order]
            found = method(rows @ rows.T, **given(losses[order], mode))
            torch.testing.assert_close(found, expected[order], rtol=1e-9, atol=1e-12)


def test_unit_gradients_have_the_weights_of_any_lengths() -> None:
    for seed in range(10):
        jacobian = normal(seed, m=4)
        lengths = 10.0 ** normal(seed + 100, 1, 4).T
        expected = jd.weighting("mgda", normalize="l2")(jacobian @ jacobian.T)
        rows = lengths * jacobian
        found = jd.weighting("mgda", normalize="l2")(rows @ rows.T)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["loss", "loss+"])
def test_the_unit_of_all_losses_does_not_matter(mode: str) -> None:
    matrix = normal(0, m=4) @ normal(0, m=4).T
    losses = torch.tensor([0.1, 2.0, 1.0, 30.0], dtype=torch.float64)
    expected = jd.weighting("mgda", normalize=mode)(matrix, losses=losses)
    for factor in (1e-12, 1e12):
        found = jd.weighting("mgda", normalize=mode)(matrix, losses=factor * losses)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_orthogonal_gradients_over_losses_are_weighted_by_their_squares() -> None:
    losses = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    squares = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)
    found = jd.weighting("mgda", normalize="loss")(squares.diag(), losses=losses)
    expected = losses.square() / squares
    torch.testing.assert_close(found, expected / expected.sum())
    found = jd.weighting("mgda", normalize="loss+")(squares.diag(), losses=losses)
    torch.testing.assert_close(found, losses.square() / losses.square().sum())


@pytest.mark.parametrize("mode", ["loss", "loss+"])
def test_an_objective_without_loss_gets_nearly_no_weight(mode: str) -> None:
    matrix = normal(1, m=3) @ normal(1, m=3).T
    weights = jd.weighting("mgda", normalize=mode)(matrix, losses=torch.tensor([1.0, 0.0, 2.0]))
    assert weights.isfinite().all()
    assert 0.0 <= weights[1] <= 1e-8
    equal = jd.weighting("mgda", normalize=mode)(matrix, losses=torch.zeros(3))
    alike = jd.weighting("mgda", normalize=mode)(matrix, losses=torch.ones(3))
    torch.testing.assert_close(equal, alike)


@pytest.mark.parametrize("mode", ["l2", "loss", "loss+"])
def test_a_zero_gradient_stops_the_others_in_every_mode(mode: str) -> None:
    jacobian = normal(3, m=3)
    jacobian[1] = 0.0
    losses = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    weights = jd.weighting("mgda", normalize=mode)(jacobian @ jacobian.T, **given(losses, mode))
    assert weights.tolist() == [0.0, 1.0, 0.0]


def test_only_an_instance_that_divides_by_the_losses_needs_them() -> None:
    for mode in (None, "l2"):
        assert jd.weighting("mgda", normalize=mode).needs == {"gramian"}
    for mode in ("loss", "loss+"):
        method = jd.weighting("mgda", normalize=mode)
        assert method.needs == {"gramian", "losses"}
        with pytest.raises(ValueError, match="mgda needs the losses beside the gradients"):
            method(torch.eye(2))


def test_a_negative_loss_is_refused_where_others_turn_its_gradient_around() -> None:
    with pytest.raises(ValueError, match="mgda needs losses of at least zero, but loss 1 is -3"):
        jd.weighting("mgda", normalize="loss")(torch.eye(2), losses=torch.tensor([1.0, -3.0]))


@pytest.mark.parametrize("mode", ["loss", "loss+"])
def test_the_training_loop_gives_it_the_losses(mode: str) -> None:
    pytest.importorskip("jd_plugin_autojac")
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    descent = jd.Descent(model, "mgda", normalize=mode, engine="autojac")
    losses = model(torch.randn(8, 3)).square().mean(0)
    step = descent.backward(losses)
    expected = jd.weighting("mgda", normalize=mode)(step.gramian, losses=losses)
    torch.testing.assert_close(step.weights, expected)


@pytest.mark.parametrize("mode", ["L2", "none", 1])
def test_an_unknown_normalisation_is_refused(mode: Any) -> None:
    with pytest.raises(jd.ConfigError, match="mgda: normalize = "):
        jd.weighting("mgda", normalize=mode)
