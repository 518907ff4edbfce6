"""CR-MOGM: an average over steps that is detached, saved, and asks for what its inner one needs."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.bases import GramianWeighting, JacobianWeighting, Randomised
from jdframework.config import Config
from jdframework.testing import FAMILIES, WeightingSuite

INNER = "shares-of-this-test"
RANDOM = "noise-of-this-test"


class PowerConfig(Config):
    """Settings of shares."""

    power: float = 1.0


class Shares(GramianWeighting):
    """Each gradient's share of the squared norms."""

    Config = PowerConfig
    config: PowerConfig

    def forward(self, gramian: Tensor, /) -> Tensor:
        squares = gramian.diagonal() ** self.config.power
        return squares / squares.sum().clamp(min=torch.finfo(gramian.dtype).tiny)


class Noise(Randomised, GramianWeighting):
    """Random weights."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return self.normal(len(gramian), like=gramian) + gramian.diagonal()


class Rows(JacobianWeighting):
    """Row sums."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian.sum(1)


class ByLoss(GramianWeighting):
    """The losses."""

    needs = frozenset({"gramian", "losses"})

    def forward(self, gramian: Tensor, /, losses: Tensor | None = None) -> Tensor:
        assert losses is not None
        return losses


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    jd.register("weighting", INNER)(Shares)
    jd.register("weighting", RANDOM)(Noise)
    yield
    jd.unregister("weighting", INNER)
    jd.unregister("weighting", RANDOM)


class TestCRMOGM(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "cr-mogm", "inner": INNER}

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """At the first step the weights are those of the inner weighting."""
        return float((weights - Shares()(gramian)).abs().max())


class TestCRMOGMFromWeightsOfAnInnerOneWithState(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {
        "name": "cr-mogm",
        "inner": {"name": RANDOM, "seed": 3},
        "alpha": 0.5,
        "initial_weights": [1.0, 0.0, 2.0],
    }
    objectives = (3,)
    permutation_equivariant = False
    scale = None


def gramian_of(seed: int, m: int = 4) -> Tensor:
    jacobian = FAMILIES["random"](m, seed)
    return jacobian @ jacobian.T


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("initial", [None, [1.0, -2.0, 0.5, 3.0]])
def test_the_weights_are_the_exponential_average(alpha: float, initial: list[float] | None) -> None:
    method = jd.weighting("cr-mogm", inner=INNER, alpha=alpha, initial_weights=initial)
    average = None if initial is None else torch.tensor(initial, dtype=torch.float64)
    for step in range(10):
        fresh = Shares()(gramian_of(step))
        average = fresh if average is None else alpha * average + (1 - alpha) * fresh
        torch.testing.assert_close(method(gramian_of(step)), average, rtol=1e-14, atol=1e-15)


def test_without_smoothing_the_weights_are_the_inner_ones_to_the_bit() -> None:
    method = jd.weighting("cr-mogm", inner=INNER, alpha=0)
    for step in range(3):
        assert torch.equal(method(gramian_of(step)), Shares()(gramian_of(step)))


def test_alpha_may_follow_a_schedule_and_is_saved() -> None:
    method = jd.weighting("cr-mogm", inner=INNER, alpha=0.0)
    first = method(gramian_of(0))
    method.alpha = 0.75
    expected = 0.75 * first + 0.25 * Shares()(gramian_of(1))
    torch.testing.assert_close(method(gramian_of(1)), expected)
    fresh = jd.weighting("cr-mogm", inner=INNER)
    fresh.load_state_dict(method.state_dict(), strict=True)
    assert fresh.alpha == 0.75
    fresh.reset()
    assert fresh.alpha == 0.9


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_an_alpha_beyond_its_bounds_is_refused(value: float) -> None:
    with pytest.raises(jd.ConfigError, match="cr-mogm: alpha = "):
        jd.weighting("cr-mogm", inner=INNER, alpha=value)
    method = jd.weighting("cr-mogm", inner=INNER)
    with pytest.raises(jd.ConfigError, match="cr-mogm: alpha = "):
        method.alpha = value
    assert method.alpha == 0.9


@pytest.mark.parametrize("done", [0, 1, 4])
def test_the_average_loads_strictly_into_a_fresh_instance_from_a_file(done: int) -> None:
    spec = {"name": "cr-mogm", "inner": {"name": RANDOM, "seed": 0}}
    method = jd.weighting(spec)
    for step in range(done):
        method(gramian_of(step))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    fresh = jd.weighting(spec)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    for step in range(done, done + 3):
        assert torch.equal(fresh(gramian_of(step)), method(gramian_of(step)))


def test_reset_resets_the_inner_weighting_too() -> None:
    method = jd.weighting("cr-mogm", inner={"name": RANDOM, "seed": 0})
    first = method(gramian_of(0))
    method(gramian_of(1))
    method.reset()
    assert torch.equal(method(gramian_of(0)), first)


def test_another_number_of_objectives_is_refused_until_reset() -> None:
    method = jd.weighting("cr-mogm", inner=INNER)
    method(gramian_of(0, m=4))
    with pytest.raises(jd.ConfigError, match=r"cr-mogm remembers average .* call reset\(\) first"):
        method(gramian_of(0, m=3))
    method.reset()
    assert torch.equal(method(gramian_of(0, m=3)), Shares()(gramian_of(0, m=3)))


def test_weights_that_are_not_finite_do_not_stay_in_the_average() -> None:
    broken = gramian_of(0).fill_diagonal_(torch.nan)
    method, control = (jd.weighting("cr-mogm", inner=INNER) for _ in range(2))
    assert method(broken).isnan().all()
    assert torch.equal(method(gramian_of(1)), control(gramian_of(1)))
    assert method(broken).isnan().all()
    assert torch.equal(method(gramian_of(2)), control(gramian_of(2)))


def test_an_instance_needs_what_its_inner_weighting_needs() -> None:
    assert jd.weighting("cr-mogm", inner=INNER).needs == {"gramian"}
    assert jd.weighting("cr-mogm", inner=Rows()).needs == {"jacobian"}
    assert jd.weighting("cr-mogm", inner=ByLoss()).needs == {"gramian", "losses"}


def test_an_inner_weighting_of_the_jacobian_is_given_the_jacobian() -> None:
    method = jd.weighting("cr-mogm", inner=Rows(), alpha=0.5)
    jacobians = [FAMILIES["random"](3, seed).float() for seed in range(2)]
    method(jacobians[0])
    expected = 0.5 * jacobians[0].sum(1) + 0.5 * jacobians[1].sum(1)
    found = method(jacobians[1])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        jd.aggregator(jd.weighting("cr-mogm", inner=Rows()))(jacobians[0]),
        jacobians[0].sum(1) @ jacobians[0],
    )


def test_an_inner_weighting_of_the_losses_is_given_the_losses() -> None:
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    assert torch.equal(
        jd.weighting("cr-mogm", inner=ByLoss())(gramian_of(0), losses=losses), losses
    )


def test_initial_weights_of_another_length_are_refused() -> None:
    method = jd.weighting("cr-mogm", inner=INNER, initial_weights=[1.0, 2.0])
    with pytest.raises(jd.ConfigError, match="initial_weights has 2 values, but there are 4"):
        method(gramian_of(0))


def their_shares(aggregation: Any) -> Any:
    class TheirShares(aggregation.Weighting):
        def forward(self, gramian: Tensor, /) -> Tensor:
            return gramian.diagonal() / gramian.trace()

    return TheirShares()


@pytest.fixture
def aggregation() -> Any:
    return pytest.importorskip("torchjd.aggregation")


@pytest.mark.parametrize("initial", [None, [1.0, -2.0, 0.5, 3.0]])
def test_torchjd_gives_the_same_weights(aggregation: Any, initial: list[float] | None) -> None:
    start = None if initial is None else torch.tensor(initial, dtype=torch.float64)
    theirs = aggregation.CRMOGMWeighting(their_shares(aggregation), initial_weights=start)
    ours = jd.weighting("cr-mogm", inner=INNER, initial_weights=initial)
    for step in range(10):
        found, expected = ours(gramian_of(step)), theirs(gramian_of(step))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


def nodes(tensor: Tensor) -> int:
    """How many nodes the tensor's graph has."""
    seen: set[Any] = set()
    pending = [tensor.grad_fn]
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            pending += [following for following, _ in node.next_functions]
    return len(seen)


def test_torchjds_graph_grows_with_each_step_and_ours_has_none(aggregation: Any) -> None:
    theirs = aggregation.CRMOGMWeighting(their_shares(aggregation))
    ours = jd.weighting("cr-mogm", inner=INNER)
    sizes = []
    for step in range(5):
        gramian = gramian_of(step).requires_grad_()
        sizes.append(nodes(theirs(gramian)))
        assert ours(gramian).grad_fn is None
        assert ours.average.grad_fn is None
    assert sizes == sorted(set(sizes)), "torchjd has mended this"
    assert len(sizes) == 5


def test_torchjds_saved_average_does_not_load_and_ours_does(aggregation: Any) -> None:
    theirs = aggregation.CRMOGMWeighting(their_shares(aggregation))
    theirs(gramian_of(0))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        aggregation.CRMOGMWeighting(their_shares(aggregation)).load_state_dict(theirs.state_dict())
    ours = jd.weighting("cr-mogm", inner=INNER)
    ours(gramian_of(0))
    jd.weighting("cr-mogm", inner=INNER).load_state_dict(ours.state_dict())
