"""The training-loop object: one line for every method, and nothing wrong in silence."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.bases import Aggregator, GramianWeighting, Scalarizer
from jdframework.config import Config
from jdframework.testing import derived_suite

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def settings(name: str, m: int) -> dict[str, Any]:
    """What a method that is named needs for ``m`` objectives."""
    found = dict(derived_suite(jd.describe(name).kinds[0], name).config)
    known = {"shape": m, "weights": [1.0 + i for i in range(m)]}
    return found | {field: value for field, value in known.items() if field in found}


def every_method() -> list[str]:
    kinds = ("weighting", "aggregator", "scalarizer")
    names = {name for kind in kinds for name in jd.available(kind)}
    return sorted(name for name in names if "cross-gramian" not in jd.describe(name).needs)


def multitask() -> tuple[nn.Module, nn.ModuleDict, Tensor]:
    trunk = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).to(F64)
    heads = nn.ModuleDict({"depth": nn.Linear(4, 1), "normals": nn.Linear(4, 2)}).to(F64)
    return trunk, heads, torch.randn(7, 3, dtype=F64)


def task_losses(heads: nn.ModuleDict, features: Tensor) -> dict[str, Tensor]:
    # At least 0.1: fixed steps on the logarithm of a loss leave no minimum at zero.
    return {name: head(features).square().mean() + 0.1 for name, head in heads.items()}


def total(losses: dict[str, Tensor]) -> float:
    return sum(float(loss.detach()) for loss in losses.values())


@pytest.mark.parametrize("name", every_method())
class TestEveryMethod:
    def test_one_loop_serves_it(self, name: str) -> None:
        trunk, heads, x = multitask()
        descent = jd.Descent(trunk, name, **settings(name, 2))
        parameters = [*trunk.parameters(), *heads.parameters(), *descent.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=0.05)
        before = total(task_losses(heads, trunk(x)))
        for _ in range(30):
            features = trunk(x)
            step = descent.backward(task_losses(heads, features), features=features)
            optimizer.step()
            optimizer.zero_grad()
            descent.after_update(task_losses(heads, trunk(x)))
        descent.end_epoch()
        assert step.names == ("depth", "normals")
        assert not step.skipped
        assert total(task_losses(heads, trunk(x))) < before

    def test_the_update_is_the_weighted_gradient(self, name: str) -> None:
        model = nn.Linear(3, 2).to(F64)
        x = torch.randn(4, 3, dtype=F64)
        descent = jd.Descent(model, name, batch_dim=0, **settings(name, 4))
        step = descent.backward(model(x).square().mean(1))
        found = model.weight.grad.clone()
        assert step.losses.shape == (4,)
        if step.weights is None:
            pytest.skip(f"{name} is no weighted sum")
        model.zero_grad()
        model(x).square().mean(1).backward(step.weights.to(F64))
        torch.testing.assert_close(found, model.weight.grad)

    def test_its_state_loads_into_a_fresh_descent(self, name: str) -> None:
        trunk, heads, x = multitask()
        descent = jd.Descent(trunk, name, **settings(name, 2))
        features = trunk(x)
        descent.backward(task_losses(heads, features), features=features)
        fresh = jd.Descent(trunk, name, **settings(name, 2))
        fresh.load_state_dict(descent.state_dict())
        assert fresh.state_dict().keys() == descent.state_dict().keys()


class TestStep:
    def test_it_tells_norms_cosines_and_conflict(self) -> None:
        model = nn.Linear(2, 1, bias=False).to(F64)
        x = torch.tensor([[3.0, 0.0], [-2.0, 0.0], [0.0, 1.0]], dtype=F64)
        descent = jd.Descent(model, "upgrad", batch_dim=0, engine="autojac")
        step = descent.backward(model(x).flatten())
        assert step.norms.tolist() == [3.0, 2.0, 1.0]
        assert step.cosines[0].tolist() == [1.0, -1.0, 0.0]
        assert step.conflict == pytest.approx(1 / 3)
        assert step.engine == "autojac"
        assert step.names == ("0", "1", "2")

    def test_entries_of_a_grid_of_losses_are_named_by_their_index(self) -> None:
        model = nn.Linear(2, 3)
        step = jd.Descent(model, "mgda").backward(model(torch.randn(2, 2)).square())
        assert step.names == ("0,0", "0,1", "0,2", "1,0", "1,1", "1,2")

    @pytest.mark.parametrize("shape", [(), (1,)])
    def test_the_only_objective_is_named_0(self, shape: tuple[int, ...]) -> None:
        model = nn.Linear(2, 1)
        loss = model(torch.randn(1, 2)).square().reshape(shape)
        descent = jd.Descent(model, "mgda")
        if shape:
            assert descent.backward(loss).names == ("0",)
            return
        with pytest.warns(UserWarning, match="one scalar, which is plain training"):
            assert descent.backward(loss).names == ("0",)

    def test_a_scalarizers_weights_are_its_derivative(self) -> None:
        trunk, heads, x = multitask()
        descent = jd.Descent(trunk, "uw", shape=2)
        with torch.no_grad():
            next(iter(descent.parameters())).copy_(torch.tensor([0.0, math.log(2.0)]))
        step = descent.backward(task_losses(heads, trunk(x)))
        assert step.weights is not None
        assert step.weights.tolist() == pytest.approx([0.5, 0.25])
        assert step.gramian is None
        assert step.engine == "autograd"
        with pytest.raises(ValueError, match="autograd measured no gradients"):
            _ = step.conflict

    def test_one_objective_has_no_conflict(self) -> None:
        model = nn.Linear(2, 1)
        assert jd.Descent(model, "upgrad").backward([model(torch.ones(2)).sum()]).conflict == 0.0

    def test_it_holds_no_graph(self) -> None:
        model = nn.Linear(2, 1)
        step = jd.Descent(model, "upgrad").backward(model(torch.randn(3, 2)).flatten())
        for tensor in (step.losses, step.weights, step.gramian):
            assert tensor is not None
            assert not tensor.requires_grad


class TestChoice:
    def test_a_name_of_two_kinds_runs_the_cheaper_way_unless_an_engine_is_named(self) -> None:
        model = nn.Linear(2, 2)
        assert jd.Descent(model, "mean").method.kind == "scalarizer"
        descent = jd.Descent(model, "mean", engine="autojac")
        assert descent.method.kind == "weighting"
        assert descent.backward(model(torch.ones(2))).gramian is not None

    def test_both_ways_give_the_same_gradient(self) -> None:
        model, x = nn.Linear(3, 2).to(F64), torch.randn(4, 3, dtype=F64)
        found = []
        for engine in ("auto", "autojac"):
            model.zero_grad()
            jd.Descent(model, "mean", engine=engine).backward(model(x).square().mean(1))
            found.append(model.weight.grad.clone())
        torch.testing.assert_close(found[0], found[1])

    def test_specs_and_instances_are_taken_for_method_and_engine(self) -> None:
        model = nn.Linear(2, 2)
        engine = jd.engine({"name": "autojac", "parallel_chunk_size": 1}, model)
        descent = jd.Descent(model, {"name": "UPGrad", "pref_vector": [1.0, 2.0]}, engine=engine)
        assert descent.engine is engine
        step = descent.backward(model(torch.ones(2)))
        assert step.weights is not None
        instance = jd.weighting("upgrad")
        assert jd.Descent(model, instance).method is instance

    def test_an_engine_that_forms_no_jacobian_is_refused_for_a_method_that_needs_it(self) -> None:
        class Median(Aggregator):
            def forward(self, jacobian: Tensor, /) -> Tensor:
                return jacobian.median(0).values

        from jdframework.bases import Engine

        class GramianOnly(Engine):
            capabilities = frozenset({"gramian"})

            def linearize(self, *_):
                return None

        model = nn.Linear(2, 2)
        with pytest.raises(jd.UnsupportedModelError, match=r"needs the jacobian.*engine='auto'"):
            jd.Descent(model, Median(), engine=GramianOnly(model))

    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (lambda m: jd.Descent(m, "upgradd"), jd.UnknownNameError, "did you mean 'upgrad'"),
            (lambda m: jd.Descent(m, "autojac"), jd.UnknownNameError, "is an engine, not a method"),
            (lambda m: jd.Descent(m, "krum"), jd.ConfigError, r"\"krum\", n_byzantine=0\), for"),
            (lambda m: jd.Descent(m, "mgda", engine="fast"), jd.UnknownNameError, "no engine is"),
            (lambda m: jd.Descent(m, "mgda", on_nonfinite="no"), jd.ConfigError, "'raise', 'skip'"),
            (lambda m: jd.Descent([], "mgda"), jd.ConfigError, "an empty sequence"),
            (lambda m: jd.Descent("m", "mgda"), jd.ConfigError, "the model goes first"),
        ],
    )
    def test_a_wrong_argument_is_one_clear_sentence(
        self, make: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            make(nn.Linear(2, 2))


class TestFrozenAfterTheForwardPass:
    """What requires no gradient when ``backward`` is called has no part, as in torch."""

    @pytest.mark.parametrize("batch_dim", [None, 0])
    @pytest.mark.parametrize("engine", ["auto", "autogram", "autojac", "chunked"])
    @pytest.mark.parametrize("frozen", ["trunk.0.weight", "trunk.2.bias", "head.weight", "head"])
    def test_it_gets_no_gradient_and_the_others_get_theirs(
        self, frozen: str, engine: str, batch_dim: int | None
    ) -> None:
        model = nn.ModuleDict(
            {
                "trunk": nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4)),
                "head": nn.Linear(4, 2),
            }
        ).to(F64)
        features = model["trunk"](torch.randn(5, 3, dtype=F64))
        losses = model["head"](features).square().mean(0 if batch_dim is None else 1)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))
        wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
        descent = jd.Descent(model["trunk"], "upgrad", engine=engine, batch_dim=batch_dim)
        weights = descent.backward(losses, retain_graph=True).weights
        expected = torch.autograd.grad(losses, list(wanted.values()), weights)
        for (name, parameter), gradient in zip(wanted.items(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, msg=name)
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)

    @pytest.mark.parametrize("name", ["graddrop", "grouped"])
    def test_points_that_losses_are_differentiated_by_need_no_weight_then(self, name: str) -> None:
        def losses() -> tuple[Tensor, list[Tensor]]:
            x = torch.rand(8, 1, requires_grad=True)
            u = model(x)
            (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
            return x, [(slope - u).square().mean(), (model(torch.zeros(1, 1)) - 1).square().mean()]

        model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
        descent = jd.Descent(model, name, **settings(name, 2))
        with pytest.raises(jd.UnsupportedModelError, match=r"requires_grad_\(False\)"):
            descent.backward(losses()[1])
        points, found = losses()
        points.requires_grad_(False)
        descent.backward(found)
        assert points.grad is None
        assert all(parameter.grad is not None for parameter in model.parameters())


class TestFeatures:
    def test_heads_get_their_plain_gradient(self) -> None:
        trunk, heads, x = multitask()
        features = trunk(x)
        jd.Descent(trunk, "mgda").backward(task_losses(heads, features), features=features)
        found = heads["depth"].weight.grad.clone()
        heads.zero_grad()
        task_losses(heads, trunk(x))["depth"].backward()
        torch.testing.assert_close(found, heads["depth"].weight.grad)

    def test_without_features_heads_get_the_weighted_gradient(self) -> None:
        trunk, heads, x = multitask()
        step = jd.Descent(trunk, "mgda").backward(task_losses(heads, trunk(x)))
        found = heads["depth"].weight.grad.clone()
        heads.zero_grad()
        task_losses(heads, trunk(x))["depth"].backward()
        assert step.weights is not None
        torch.testing.assert_close(found, step.weights[0] * heads["depth"].weight.grad)

    def test_trunk_gradients_are_the_same_either_way(self) -> None:
        trunk, heads, x = multitask()
        found = []
        for cut in (True, False):
            trunk.zero_grad()
            features = trunk(x)
            jd.Descent(trunk, "upgrad").backward(
                task_losses(heads, features), features=features if cut else None
            )
            found.append(trunk[0].weight.grad.clone())
        torch.testing.assert_close(found[0], found[1])

    @pytest.mark.parametrize(("engine", "weight"), [("auto", 0.5), ("autogram", 1.0)])
    def test_heads_follow_a_scalarizer_and_no_weighting_of_the_same_name(
        self, engine: str, weight: float
    ) -> None:
        trunk, heads, x = multitask()
        features = trunk(x)
        descent = jd.Descent(trunk, "mean", engine=engine)
        descent.backward(task_losses(heads, features), features=features)
        found = heads["depth"].weight.grad.clone()
        heads.zero_grad()
        task_losses(heads, trunk(x))["depth"].backward()
        torch.testing.assert_close(found, weight * heads["depth"].weight.grad)

    @pytest.mark.parametrize("engine", ["autojac", "autogram", "chunked"])
    def test_several_levels_of_a_backbone_give_the_gradients_of_none(self, engine: str) -> None:
        trunk, heads, x = multitask()
        found = []
        for cut in (True, False):
            trunk.zero_grad()
            low = trunk[0](x)
            high = trunk[2](trunk[1](low))
            losses = task_losses(heads, high)
            losses["low"] = (low.mean() * high).mean()
            levels = [low, high] if cut else None
            step = jd.Descent(trunk, "upgrad", engine=engine).backward(losses, features=levels)
            found.append([step.gramian, trunk[0].weight.grad.clone()])
        torch.testing.assert_close(found[0], found[1])

    def test_several_modules_may_share_the_objectives(self) -> None:
        trunk, heads, x = multitask()
        descent = jd.Descent([trunk[0], trunk[2]], "upgrad")
        features = trunk(x)
        descent.backward(task_losses(heads, features), features=features)
        found = trunk[0].weight.grad.clone()
        trunk.zero_grad()
        features = trunk(x)
        jd.Descent(trunk, "upgrad").backward(task_losses(heads, features), features=features)
        torch.testing.assert_close(found, trunk[0].weight.grad)


def nan_loss(model: nn.Module) -> Tensor:
    return torch.stack([model(torch.ones(2)).sum(), model(torch.full((2,), math.nan)).sum()])


def nan_gradient(model: nn.Module) -> Tensor:
    return torch.stack([model(torch.ones(2)).sum(), (0 * model(torch.ones(2)).sum()).sqrt()])


@pytest.mark.parametrize("name", ["upgrad", "mean"])
@pytest.mark.parametrize("losses", [nan_loss, nan_gradient])
class TestNonFinite:
    def test_it_is_raised_with_the_step_and_grad_is_untouched(self, name: str, losses: Any) -> None:
        model = nn.Linear(2, 1, bias=False)
        descent = jd.Descent(model, name)
        descent.backward(model(torch.randn(2, 2)).flatten())
        before = model.weight.grad.clone()
        with pytest.raises(jd.NonFiniteError, match="^step 1: .*finite"):
            descent.backward(losses(model))
        assert torch.equal(model.weight.grad, before)

    def test_it_is_skipped_when_asked(self, name: str, losses: Any) -> None:
        model = nn.Linear(2, 1, bias=False)
        step = jd.Descent(model, name, on_nonfinite="skip").backward(losses(model))
        assert step.skipped
        assert step.weights is None
        assert model.weight.grad is None

    def test_it_propagates_when_asked(self, name: str, losses: Any) -> None:
        model = nn.Linear(2, 1, bias=False)
        step = jd.Descent(model, name, on_nonfinite="propagate").backward(losses(model))
        assert not step.skipped
        assert not bool(torch.isfinite(model.weight.grad).all())


def test_a_non_finite_objective_is_named() -> None:
    trunk, heads, x = multitask()
    losses = task_losses(heads, trunk(x))
    losses["normals"] = losses["normals"] * math.inf
    with pytest.raises(jd.NonFiniteError, match="step 0: the loss of objective 'normals' is not"):
        jd.Descent(trunk, "upgrad").backward(losses)
    losses = task_losses(heads, trunk(x))
    losses["depth"] = (losses["depth"] * 0).sqrt()
    with pytest.raises(jd.NonFiniteError, match="the gradient of objective 'depth' is not"):
        jd.Descent(trunk, "upgrad").backward(losses)


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        (lambda y: [], ValueError, "losses is empty"),
        (lambda y: {}, ValueError, "losses is empty"),
        (lambda y: y[:0], ValueError, "losses is empty"),
        (lambda y: {"a": y}, ValueError, r"losses\['a'\] has shape \[3\]"),
        (lambda y: [y.sum(), 3.0], TypeError, r"losses\['1'\] is 3\.0, which has no gradient"),
        (
            lambda y: {"a": y.sum(), "b": y.sum().detach()},
            ValueError,
            r"losses\['b'\] does not req",
        ),
        (lambda y: y.detach(), ValueError, "losses does not require gradients"),
    ],
)
@pytest.mark.parametrize("name", ["upgrad", "mean"])
def test_wrong_losses_are_refused(name: str, losses: Any, error: Any, message: str) -> None:
    model = nn.Linear(2, 3)
    with pytest.raises(error, match=message):
        jd.Descent(model, name).backward(losses(model(torch.ones(2))))


@pytest.mark.parametrize("name", ["upgrad", "mean"])
def test_an_exception_in_the_backward_pass_leaves_grad_and_the_next_step_right(name: str) -> None:
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            raise RuntimeError("no luck")

    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    x = torch.randn(3, 2)
    model[2].weight.grad = torch.ones(2, 2)
    descent = jd.Descent(model, name)
    with pytest.raises(RuntimeError, match="no luck"):
        descent.backward(model[2](Fails.apply(model[:2](x))).square().mean(1))
    assert model[0].weight.grad is None
    assert torch.equal(model[2].weight.grad, torch.ones(2, 2))
    model.zero_grad()
    step = descent.backward(model(x).square().mean(1))
    found = model[0].weight.grad.clone()
    model.zero_grad()
    assert step.weights is not None
    model(x).square().mean(1).backward(step.weights)
    torch.testing.assert_close(found, model[0].weight.grad)


def test_gradients_accumulate_over_calls() -> None:
    model, x = nn.Linear(3, 2).to(F64), torch.randn(4, 3, dtype=F64)
    for name in ("upgrad", "mean"):
        model.zero_grad()
        descent = jd.Descent(model, name)
        descent.backward(model(x).square().mean(1))
        once = model.weight.grad.clone()
        descent.backward(model(x).square().mean(1))
        torch.testing.assert_close(model.weight.grad, 2 * once)


@pytest.mark.parametrize("name", ["upgrad", "mean"])
def test_the_graph_is_kept_only_when_asked(name: str) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    descent = jd.Descent(model, name)
    losses = model(torch.randn(3, 2)).square().mean(1)
    descent.backward(losses, retain_graph=True)
    descent.backward(losses)


@pytest.mark.parametrize("name", ["upgrad", "mean", "imtl-l"])
def test_memory_stays_flat(name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    descent = jd.Descent(model, name, **settings(name, 4))

    def step() -> weakref.ref[Tensor]:
        hidden = model[:2](torch.randn(4, 3))
        descent.backward(model[2](hidden).square().mean(1))
        return weakref.ref(hidden)

    traces = [step() for _ in range(5)]
    gc.collect()
    assert [trace() for trace in traces] == [None] * 5


def jacobian(losses: Tensor, model: nn.Module) -> Tensor:
    blocks = jd.jac(losses, list(model.parameters()), retain_graph=True)
    return torch.cat([block.reshape(len(block), -1) for block in blocks], 1)


class TestProtocolsOfMethods:
    def test_methods_that_act_after_the_update_or_per_epoch_are_told(self) -> None:
        told: list[str] = []

        class Told(Scalarizer):
            def forward(self, losses: Tensor, /) -> Tensor:
                return losses.sum()

            def after_update(self, losses: Tensor, /) -> None:
                told.append(f"after {losses.tolist()}")

            def end_epoch(self) -> None:
                told.append("epoch")

            def reset(self) -> None:
                told.append("reset")

        descent = jd.Descent(nn.Linear(1, 1), Told())
        descent.after_update({"a": torch.tensor(1.0), "b": torch.tensor(2.0)})
        descent.end_epoch()
        descent.reset()
        assert told == ["after [1.0, 2.0]", "epoch", "reset"]

    def test_losses_after_the_update_are_matched_by_their_names(self) -> None:
        told: list[list[float]] = []

        class Told(Scalarizer):
            def forward(self, losses: Tensor, /) -> Tensor:
                return losses.sum()

            def after_update(self, losses: Tensor, /) -> None:
                told.append(losses.tolist())

        model = nn.Linear(1, 2)
        descent = jd.Descent(model, Told())
        losses = dict(zip("ab", model(torch.ones(1)), strict=True))
        descent.backward(losses)
        descent.after_update({"b": torch.tensor(2.0), "a": torch.tensor(1.0)})
        assert told == [[1.0, 2.0]]
        with pytest.raises(ValueError, match="after_update has the objectives 'a', 'c', but"):
            descent.after_update({"a": torch.tensor(1.0), "c": torch.tensor(2.0)})

    @pytest.mark.parametrize(
        ("method", "config"),
        [
            ("gradvac", {}),
            ("moco", {}),
            ("famo", {"shape": 2}),
            ("uw", {"shape": 2}),
            ("nash-mtl", {"update_weights_every": 2}),
        ],
    )
    def test_objectives_that_are_remembered_do_not_change_places(
        self, method: str, config: dict[str, Any]
    ) -> None:
        model = nn.Linear(1, 2)
        descent = jd.Descent(model, method, **config)

        def losses(*names: str) -> dict[str, Tensor]:
            return dict(zip(names, model(torch.ones(1)).square(), strict=True))

        descent.backward(losses("a", "b"))
        before = copy.deepcopy(descent.state_dict())
        for names in (("b", "a"), ("a", "c")):
            with pytest.raises(ValueError, match=f"{method} remembers them by their places"):
                descent.backward(losses(*names))
        torch.testing.assert_close(descent.state_dict(), before)
        descent.backward(losses("a", "b"))
        descent.reset()
        descent.backward(losses("b", "a"))

    @pytest.mark.parametrize("method", ["upgrad", "random", "pcgrad"])
    def test_objectives_that_are_not_remembered_may_come_in_any_order(self, method: str) -> None:
        model = nn.Linear(1, 2)
        descent = (
            jd.Descent(model, method, seed=0) if method != "upgrad" else jd.Descent(model, method)
        )
        for names in ("ab", "ba"):
            losses = dict(zip(names, model(torch.ones(1)).square(), strict=True))
            assert descent.backward(losses).names == tuple(names)

    def test_weights_that_are_not_used_again_are_not_remembered(self) -> None:
        model = nn.Linear(1, 2)

        def losses(names: str) -> dict[str, Tensor]:
            return dict(zip(names, model(torch.ones(1)).square(), strict=False))

        every, second = (
            jd.Descent(model, "nash-mtl", update_weights_every=often) for often in (1, 2)
        )
        for names in ("ab", "ba", "a", "b"):
            assert every.backward(losses(names)).names == tuple(names)
        for names in ("ab", "ab", "ba", "ba", "a", "a", "b"):
            assert second.backward(losses(names)).names == tuple(names)

    def test_a_method_that_needs_the_losses_is_given_them(self) -> None:
        class ByLoss(GramianWeighting):
            needs = frozenset({"gramian", "losses"})

            def forward(self, gramian: Tensor, /, losses: Tensor | None = None) -> Tensor:
                assert losses is not None
                return losses / losses.sum()

        model = nn.Linear(2, 1).to(F64)
        losses = model(torch.randn(3, 2, dtype=F64)).square().flatten()
        step = jd.Descent(model, ByLoss()).backward(losses)
        torch.testing.assert_close(step.weights, step.losses / step.losses.sum())

    def test_a_method_of_the_cross_gramian_is_given_that_of_two_batches(self) -> None:
        seen: list[Tensor] = []

        class Cross(GramianWeighting):
            needs = frozenset({"cross-gramian"})

            def forward(self, gramian: Tensor, /) -> Tensor:
                seen.append(gramian)
                return gramian.diagonal()

        model = nn.Linear(2, 2).to(F64)
        descent = jd.Descent(model, Cross())
        first, second = (model(torch.randn(5, 2, dtype=F64)).square().mean(0) for _ in range(2))
        jacobians = [jacobian(losses, model) for losses in (first, second)]
        descent.backward(first, independent=second)
        torch.testing.assert_close(seen[0], jacobians[0] @ jacobians[1].T)
        with pytest.raises(ValueError, match="needs the same objectives on an independent batch"):
            descent.backward(model(torch.ones(1, 2, dtype=F64)).flatten())

    def test_independent_batches_are_refused_where_they_mean_nothing(self) -> None:
        model = nn.Linear(2, 2)
        losses = model(torch.ones(2))
        with pytest.raises(ValueError, match="makes no use of independent batches"):
            jd.Descent(model, "mgda").backward(losses, independent=losses)


def test_each_step_is_told_to_observers() -> None:
    steps: list[jd.Step] = []

    class Observer:
        @jd.hooks.hookimpl
        def jd_step(self, step: jd.Step) -> None:
            steps.append(step)

    observer = Observer()
    jd.hooks.register(observer)
    try:
        model = nn.Linear(2, 2)
        given = jd.Descent(model, "upgrad").backward(model(torch.ones(2)))
    finally:
        jd.hooks.unregister(observer)
    assert steps == [given]


def test_a_third_partys_method_registered_in_a_notebook_is_served() -> None:
    class InverseNormConfig(Config):
        power: float = 1.0

    @jd.register("weighting", "inverse-norm-of-this-test")
    class InverseNorm(GramianWeighting):
        """Weights each objective by the inverse of its gradient's norm."""

        Config = InverseNormConfig
        config: InverseNormConfig

        def forward(self, gramian: Tensor, /) -> Tensor:
            return gramian.diagonal().sqrt() ** -self.config.power

    try:
        model = nn.Linear(2, 2)
        step = jd.Descent(model, "InverseNorm of this test", power=2).backward(model(torch.ones(2)))
        assert step.weights is not None
        torch.testing.assert_close(step.weights, step.norms**-2)
    finally:
        jd.unregister("weighting", "inverse-norm-of-this-test")
