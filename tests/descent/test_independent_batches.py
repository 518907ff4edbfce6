"""Weights from the gradients of independent batches, and the update of the losses' own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.bases import GramianWeighting

F64 = torch.float64


class Seen(GramianWeighting):
    """Keeps what it is given; fixed weights."""

    needs = frozenset({"cross-gramian"})

    def forward(self, gramian: Tensor, /) -> Tensor:
        self.gramian = gramian
        return torch.arange(1.0, 1.0 + len(gramian)).to(gramian)


class SeenOfTwo(Seen):
    """Takes two independent batches, and no other number."""

    independent_batches = (2,)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def made() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to(F64)


def losses_of(model: nn.Module) -> Tensor:
    return model(torch.randn(6, 3, dtype=F64)).square().mean(0)


def matrix(losses: Tensor | list[Tensor], model: nn.Module) -> Tensor:
    blocks = jd.jac(losses, list(model.parameters()), retain_graph=True)
    return torch.cat([block.flatten(1) for block in blocks], 1)


def forms(losses: Tensor) -> list[Any]:
    """The same objectives as a tensor, a sequence, and a mapping in another order."""
    return [losses, list(losses), {"b": losses[1], "a": losses[0]}]


@pytest.mark.parametrize("form", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2])
def test_the_cross_gramian_is_that_of_the_right_batches(form: int, count: int) -> None:
    model, method = made(), Seen()
    batches = [losses_of(model) for _ in range(count + 1)]
    jacobians = [matrix(losses, model) for losses in batches]
    given: Any = {"a": batches[0][0], "b": batches[0][1]} if form == 2 else batches[0]
    others = tuple(forms(losses)[form] for losses in batches[1:])
    jd.Descent(model, method).backward(given, independent=others if count == 2 else others[0])
    first, second = jacobians[-2:]
    torch.testing.assert_close(method.gramian, first @ second.T)


@pytest.mark.parametrize("count", [1, 2])
def test_the_update_is_the_weighted_sum_of_the_losses_own_gradients(count: int) -> None:
    model = made()
    batches = [losses_of(model) for _ in range(count + 1)]
    own = matrix(batches[0], model)
    expected = torch.tensor([1.0, 2.0], dtype=F64) @ own
    step = jd.Descent(model, Seen()).backward(batches[0], independent=batches[1:])
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(found, expected)
    assert step.weights is not None
    assert step.weights.tolist() == [1.0, 2.0]
    assert (step.gramian is None) == (count == 2)
    if step.gramian is not None:
        torch.testing.assert_close(step.gramian, own @ own.T)
    assert step.engine == "autojac"


def test_the_update_takes_no_second_jacobian() -> None:
    passes: list[int] = []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, batch: int) -> Tensor:
            ctx.batch = batch
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            passes.append(ctx.batch)
            return grads[0], None

    model = made()
    batches = []
    for batch in range(3):
        hidden = Counted.apply(model[0](torch.randn(6, 3, dtype=F64)), batch)
        batches.append(list(model[2](hidden).square().mean(0)))
    jd.Descent(model, Seen()).backward(batches[0], independent=(batches[1], batches[2]))
    assert sorted(passes) == [0, 1, 1, 2, 2]


def test_heads_get_their_plain_gradient_with_features_and_the_weighted_one_without() -> None:
    trunk, head = nn.Linear(3, 4).to(F64), nn.Linear(4, 2).to(F64)
    weights = torch.tensor([1.0, 2.0], dtype=F64)
    x = torch.randn(6, 3, dtype=F64)
    other = losses_of(nn.Sequential(trunk, head))
    plain, weighted = (
        torch.autograd.grad(head(trunk(x)).square().mean(0), [*head.parameters()], grad_outputs=g)
        for g in (torch.ones(2, dtype=F64), weights)
    )
    trunk_wanted = torch.autograd.grad(
        head(trunk(x)).square().mean(0), [*trunk.parameters()], grad_outputs=weights
    )
    for cut, wanted in ((True, plain), (False, weighted)):
        trunk.zero_grad()
        head.zero_grad()
        features = trunk(x)
        losses = head(features).square().mean(0)
        jd.Descent(trunk, Seen()).backward(
            losses, independent=other, features=features if cut else None
        )
        for parameter, gradient in zip(head.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
        for parameter, gradient in zip(trunk.parameters(), trunk_wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_tied_weights_past_the_features_are_counted() -> None:
    trunk = nn.Linear(3, 3).to(F64)

    def losses_and_features() -> tuple[Tensor, Tensor]:
        features = trunk(torch.randn(6, 3, dtype=F64))
        return nn.functional.linear(features, trunk.weight)[:, :2].square().mean(0), features

    losses, features = losses_and_features()
    expected = torch.tensor([1.0, 2.0], dtype=F64) @ matrix(losses, trunk)
    jd.Descent(trunk, Seen()).backward(
        losses, independent=losses_and_features()[0], features=features
    )
    found = torch.cat([p.grad.flatten() for p in trunk.parameters() if p.grad is not None])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["modo", "sdmgrad"])
def test_training_lowers_the_losses_of_all_objectives(name: str) -> None:
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    descent = jd.Descent(model, name)
    x = torch.randn(64, 3, dtype=F64)
    targets = torch.stack([x.sum(1), x[:, 0] * 2 - 1], 1)

    def losses(rows: Tensor) -> Tensor:
        return (model(x[rows]) - targets[rows]).square().mean(0)

    before = losses(torch.arange(64))
    for _ in range(200):
        drawn = torch.randint(64, (3, 16))
        descent.backward(losses(drawn[0]), independent=(losses(drawn[1]), losses(drawn[2])))
        optimizer.step()
        optimizer.zero_grad()
    assert (losses(torch.arange(64)) < 0.5 * before).all()


@pytest.mark.parametrize("name", ["modo", "sdmgrad"])
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(name: str) -> None:
    def run(descents: list[jd.Descent], model: nn.Module) -> None:
        for descent in descents:
            batches = [losses_of(model) for _ in range(3)]
            descent.backward(batches[0], independent=(batches[1], batches[2]))
            torch.optim.SGD(model.parameters(), lr=0.1).step()
            model.zero_grad()

    results = []
    for resumed in (False, True):
        torch.manual_seed(1)
        model = made()
        first = jd.Descent(model, name)
        run([first] * 5, model)
        second = jd.Descent(model, name)
        second.load_state_dict(first.state_dict())
        run([second if resumed else first] * 5, model)
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*results)


@pytest.mark.parametrize("inner", ["modo", "sdmgrad"])
def test_what_wraps_such_a_method_takes_the_batches_that_it_takes(inner: str) -> None:
    model = made()
    descent = jd.Descent(model, "cr-mogm", inner=inner)
    batches = [losses_of(model) for _ in range(3)]
    found = descent.backward(batches[0], independent=(batches[1], batches[2])).weights
    assert found is not None
    assert float(found.sum()) == pytest.approx(1.0)
    if inner == "sdmgrad":
        with pytest.raises(ValueError, match="cr-mogm needs .* two independent batches"):
            descent.backward(losses_of(model), independent=losses_of(model))


def test_one_objective_on_two_batches_may_be_given_as_two_scalars() -> None:
    model, method = made(), SeenOfTwo()
    losses = [losses_of(model)[:1] for _ in range(3)]
    jacobians = [matrix(loss, model) for loss in losses[1:]]
    jd.Descent(model, method).backward(losses[0], independent=(losses[1][0], losses[2][0]))
    torch.testing.assert_close(method.gramian, jacobians[0] @ jacobians[1].T)


def broken(model: nn.Module) -> Tensor:
    """Finite losses, of which the second one's gradient is not."""
    good = losses_of(model)
    return torch.stack([good[0], (0 * good[1]).sqrt()])


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_gradient_that_is_not_finite_is_refused_wherever_it_is(where: int) -> None:
    model = made()

    def drawn() -> list[Tensor]:
        return [broken(model) if i == where else losses_of(model) for i in range(3)]

    batches = drawn()
    with pytest.raises(jd.NonFiniteError, match=r"step 0: .*gradient"):
        jd.Descent(model, Seen()).backward(batches[0], independent=(batches[1], batches[2]))
    assert all(p.grad is None for p in model.parameters())
    batches = drawn()
    step = jd.Descent(model, Seen(), on_nonfinite="skip").backward(
        batches[0], independent=(batches[1], batches[2])
    )
    assert step.skipped
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("where", [0, 1])
def test_a_loss_that_is_not_finite_is_refused_wherever_it_is(where: int) -> None:
    model = made()
    batches = [losses_of(model) * (math.nan if i == where else 1.0) for i in range(2)]
    with pytest.raises(jd.NonFiniteError, match="step 0: the loss of objective '0'"):
        jd.Descent(model, Seen()).backward(batches[0], independent=batches[1])


WRONG: dict[str, tuple[Any, str]] = {
    "none": (lambda m: None, "needs the same objectives on two independent batches: backward"),
    "one": (losses_of, "on two independent batches, but independent has 1"),
    "three": (lambda m: [losses_of(m)] * 3, "two independent batches, but independent has 3"),
    "another m": (
        lambda m: (losses_of(m), losses_of(m)[:1]),
        r"independent\[1\] has 1 objectives, but losses has 2",
    ),
    "no graph": (
        lambda m: (losses_of(m).detach(), losses_of(m)),
        r"independent\[0\] does not require gradients",
    ),
    "another model": (
        lambda m: (losses_of(made()), losses_of(m)),
        "those of an independent batch, depend on no parameter",
    ),
    "other names": (
        lambda m: ({"0": losses_of(m)[0], "x": losses_of(m)[1]}, losses_of(m)),
        r"independent\[0\] has the objectives '0', 'x', but losses has '0', '1'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_batches_are_refused_in_a_clear_sentence(case: str) -> None:
    make, message = WRONG[case]
    model = made()
    with pytest.raises(ValueError, match=message):
        jd.Descent(model, SeenOfTwo()).backward(losses_of(model), independent=make(model))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["mgda", "mean", "graddrop"])
def test_independent_batches_are_refused_where_they_mean_nothing(name: str) -> None:
    model = made()
    with pytest.raises(ValueError, match=f"{name} makes no use of independent batches"):
        jd.Descent(model, name).backward(losses_of(model), independent=losses_of(model))


def test_an_aggregator_made_of_such_a_weighting_runs_as_the_weighting() -> None:
    model = made()
    batches = [losses_of(model) for _ in range(3)]
    method = SeenOfTwo()
    step = jd.Descent(model, jd.aggregator(method)).backward(batches[0], independent=batches[1:])
    assert step.weights is not None
    assert step.weights.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="two independent batches, but independent has 1"):
        jd.Descent(model, jd.aggregator(method)).backward(batches[0], independent=batches[1])
