"""What is NaN or infinite is named, skipped or let through, as asked; nothing else changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.bases import Aggregator, GramianWeighting, Scalarizer
from jdframework.protocols.names import Kind

from .subjects import (
    ENGINES,
    METHODS,
    gradient_that_is_nan,
    grads_of,
    loss_that_is_nan,
    losses_of,
    method_of,
    model,
    same,
    snapshot,
    step,
)

FAULTS = [loss_that_is_nan, gradient_that_is_nan]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("kind", "name"), METHODS)
class TestEveryMethod:
    """One good step, so that there is a state and a ``.grad``, and then a bad one."""

    def bad_step(
        self, kind: Kind, name: str, fault: Callable[[Tensor], Tensor], on_nonfinite: Any
    ) -> tuple[nn.Module, jd.Descent, Callable[[], jd.Step]]:
        network = model()
        descent = jd.Descent(network, method_of(kind, name), on_nonfinite=on_nonfinite)
        step(descent, lambda number: losses_of(network, number))
        descent.after_update(losses_of(network))
        return network, descent, lambda: step(descent, lambda n: fault(losses_of(network, n)), 1)

    def test_raising_names_objective_and_step_and_changes_nothing(
        self, kind: Kind, name: str, fault: Any
    ) -> None:
        network, descent, bad = self.bad_step(kind, name, fault, "raise")
        state, grads = snapshot(descent), grads_of(network, descent.method)
        with pytest.raises(jd.NonFiniteError, match=r"^step 1: .*objective.*'1'"):
            bad()
        assert same(snapshot(descent), state)
        assert same(grads_of(network, descent.method), grads)

    def test_skipping_changes_nothing_and_says_so(self, kind: Kind, name: str, fault: Any) -> None:
        network, descent, bad = self.bad_step(kind, name, fault, "skip")
        state, grads = snapshot(descent), grads_of(network, descent.method)
        skipped = bad()
        assert skipped.skipped
        assert skipped.weights is None
        assert same(snapshot(descent), state)
        assert same(grads_of(network, descent.method), grads)

    def test_after_a_skipped_step_all_goes_on_as_if_it_had_not_been(
        self, kind: Kind, name: str, fault: Any
    ) -> None:
        network, descent, bad = self.bad_step(kind, name, fault, "skip")
        bad()
        control, untroubled, _ = self.bad_step(kind, name, fault, "skip")
        for trained, method in ((network, descent), (control, untroubled)):
            trained.zero_grad()
            step(method, lambda number, trained=trained: losses_of(trained, number), 2)
        assert same(grads_of(network), grads_of(control))
        assert same(snapshot(descent), snapshot(untroubled))

    def test_propagating_raises_nothing_of_ours(self, kind: Kind, name: str, fault: Any) -> None:
        *_, bad = self.bad_step(kind, name, fault, "propagate")
        try:
            done = bad()
        except jd.NonFiniteError:
            pytest.fail("refused, though asked to let it through")
        except jd.SolverError:
            return  # no weights exist, finite or not
        assert not done.skipped


class NaNWeight(GramianWeighting):
    """Gives the second objective no finite weight."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        weights = gramian.new_ones(len(gramian))
        weights[1] = math.inf
        return weights


class NaNDirection(Aggregator):
    """Gives a direction with one entry that is not a number."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        direction = jacobian.mean(0)
        direction[0] = math.nan
        return direction


class NaNDerivative(Scalarizer):
    """Has no finite derivative in the second loss."""

    def forward(self, losses: Tensor, /) -> Tensor:
        return losses[0] + (0 * losses[1]).sqrt() + losses[2]


@pytest.mark.parametrize("engine", ENGINES)
class TestWhatAMethodGives:
    def test_a_weight_is_named_with_the_method_and_the_objective(self, engine: str) -> None:
        network = model()
        with pytest.raises(
            jd.NonFiniteError, match=r"step 0: na-nweight's weight of objective '1'"
        ):
            jd.Descent(network, NaNWeight(), engine=engine).backward(losses_of(network))
        assert grads_of(network) == [None] * 4

    def test_a_direction_is_refused(self, engine: str) -> None:
        if "jacobian" not in jd.engine(engine, model()).capabilities:
            pytest.skip("serves weightings of the Gramian alone")
        network = model()
        with pytest.raises(jd.NonFiniteError, match=r"step 0: .*na-ndirection"):
            jd.Descent(network, NaNDirection(), engine=engine).backward(losses_of(network))
        assert grads_of(network) == [None] * 4


def test_a_derivative_of_a_scalarizer_is_named_with_the_objective() -> None:
    network = model()
    with pytest.raises(jd.NonFiniteError, match=r"na-nderivative's weight of objective '1'"):
        jd.Descent(network, NaNDerivative()).backward(losses_of(network))
    assert grads_of(network) == [None] * 4


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("engine", [*ENGINES, "on features"])
class TestHeads:
    """The shared gradients are finite, those of a head are not."""

    def losses(self, trunk: nn.Module, head: nn.Module) -> tuple[dict[str, Tensor], Tensor]:
        features = trunk(torch.ones(2, 3))
        first = head[0](features).square().mean() + head[2].weight.abs().sqrt().sum()
        return {"depth": first, "normals": head[1](features).square().mean()}, features

    def step(self, engine: str, cut: bool, on_nonfinite: Any) -> Any:
        if engine == "on features" and not cut:
            pytest.skip("there are no features")
        where: Any = {"on": "features"} if engine == "on features" else {"engine": engine}
        torch.manual_seed(0)
        trunk = nn.Linear(3, 4)
        head = nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1), nn.Linear(1, 1, bias=False)])
        nn.init.zeros_(head[2].weight)
        descent = jd.Descent(trunk, "upgrad", on_nonfinite=on_nonfinite, **where)
        losses, features = self.losses(trunk, head)
        return trunk, head, lambda: descent.backward(losses, features=features if cut else None)

    def test_it_is_raised_with_the_objective_and_the_step(self, engine: str, cut: bool) -> None:
        trunk, head, run = self.step(engine, cut, "raise")
        with pytest.raises(jd.NonFiniteError, match="step 0: .* objective 'depth' .*parameter"):
            run()
        assert set(grads_of(trunk, head)) == {None}

    def test_it_is_skipped(self, engine: str, cut: bool) -> None:
        trunk, head, run = self.step(engine, cut, "skip")
        assert run().skipped
        assert set(grads_of(trunk, head)) == {None}

    def test_it_propagates(self, engine: str, cut: bool) -> None:
        trunk, head, run = self.step(engine, cut, "propagate")
        assert not run().skipped
        assert torch.isfinite(trunk.weight.grad).all()
        assert not torch.isfinite(head[2].weight.grad).any()


def test_the_parameter_and_its_objectives_are_named_where_several_share_one_pass() -> None:
    network = nn.ModuleDict({"body": nn.Linear(2, 2), "gate": nn.Linear(1, 1, bias=False)})
    nn.init.zeros_(network["gate"].weight)
    y = network["body"](torch.ones(2))
    losses = {"good": y[0], "bad": y[1] + network["gate"].weight.abs().sqrt().sum()}
    message = r"step 0: .*objective 'bad' with respect to the parameter 'gate.weight' is not"
    with pytest.raises(jd.NonFiniteError, match=message):
        jd.Descent(network, "mean").backward(losses)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_gradients_whose_sum_alone_overflows_are_finite(dtype: torch.dtype) -> None:
    network = nn.Linear(8, 2, dtype=dtype)
    largest = 0.4 * torch.finfo(dtype).max
    losses = (network.weight * largest).sum(1)
    step = jd.Descent(network, "sum").backward(losses)
    assert not step.skipped
    assert (network.weight.grad == largest).all()


def test_infinities_of_both_signs_do_not_cancel_out() -> None:
    network = nn.Linear(4, 2)
    factors = torch.tensor([math.inf, -math.inf, 1.0, 1.0])
    network.weight.register_hook(lambda gradient: gradient * factors)
    with pytest.raises(jd.NonFiniteError, match="step 0: all losses are finite, but the gradient"):
        jd.Descent(network, "sum").backward(network(torch.ones(4)))


def test_steps_that_raised_count() -> None:
    network = model()
    descent = jd.Descent(network, "upgrad")
    for number in range(2):
        with pytest.raises(jd.NonFiniteError, match=f"^step {number}: "):
            descent.backward(loss_that_is_nan(losses_of(network)))
