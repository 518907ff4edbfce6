"""The functional interface: what it computes, what it finds by itself, what it refuses."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def parameter(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


class TestBackward:
    def test_an_aggregator_fills_grad_and_gives_the_weights(self) -> None:
        p = parameter(1.0, 2.0)
        weights = jd.backward([p[0] * 2, (p**2).sum()], "mean")
        assert weights is not None
        assert weights.tolist() == [0.5, 0.5]
        assert p.grad is not None
        assert p.grad.tolist() == [2.0, 2.0]

    def test_every_entry_of_a_tensor_is_an_objective(self) -> None:
        p = parameter(1.0, 2.0)
        weights = jd.backward(torch.outer(p, p), "sum")
        assert weights is not None
        assert weights.shape == (4,)
        assert p.grad is not None
        assert p.grad.tolist() == [6.0, 6.0]

    def test_specs_and_instances_of_aggregators_and_weightings_are_taken(self) -> None:
        specs = ["upgrad", {"name": "upgrad"}, jd.weighting("upgrad"), jd.aggregator("upgrad")]
        grads = []
        for spec in specs:
            p = parameter(1.0, 2.0)
            jd.backward([p[0] - p[1], p[1] * 3 - p[0]], spec)
            grads.append(p.grad)
        for grad in grads:
            torch.testing.assert_close(grad, grads[0])

    def test_inputs_default_to_every_leaf_in_the_same_order_each_time(self) -> None:
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        x = torch.randn(5, 3, dtype=torch.float64)
        directions = []
        for _ in range(3):
            model.zero_grad()
            jd.backward(model(x).square().mean(0), "upgrad")
            directions.append(torch.cat([q.grad.flatten() for q in model.parameters()]))
        assert torch.equal(directions[0], directions[1])
        assert torch.equal(directions[0], directions[2])

    def test_only_the_given_inputs_are_touched(self) -> None:
        p, q = parameter(1.0), parameter(2.0)
        jd.backward([(p * q).sum(), p.sum()], "sum", [p])
        assert p.grad is not None
        assert q.grad is None

    def test_an_input_that_no_tensor_depends_on_keeps_no_grad(self) -> None:
        p, q = parameter(1.0), parameter(2.0)
        jd.backward([p.sum(), (2 * p).sum()], "sum", [p, q])
        assert q.grad is None

    def test_jac_tensors_are_the_left_factor_of_the_chain_rule(self) -> None:
        p = parameter(1.0, 2.0)
        y = p**2
        left = torch.tensor([[1.0, 1.0], [0.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
        jd.backward(y, inputs=[p], jac_tensors=left)
        expected = left @ torch.diag(2 * p.detach())
        torch.testing.assert_close(p.jac, expected)

    def test_gradients_accumulate(self) -> None:
        p = parameter(1.0, 2.0)
        for _ in range(2):
            jd.backward([p.sum()], "sum")
        assert p.grad is not None
        assert p.grad.tolist() == [2.0, 2.0]

    def test_the_graph_is_kept_only_when_asked(self) -> None:
        p = parameter(1.0, 2.0)
        y = [(p**2).sum(), p.exp().sum()]
        jd.backward(y, "sum", retain_graph=True)
        jd.backward(y, "sum")
        with pytest.raises(RuntimeError, match="second time"):
            jd.backward(y, "sum")

    @pytest.mark.parametrize("size", [None, 1, 2, 7])
    def test_the_chunk_size_does_not_change_the_result(self, size: int | None) -> None:
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5)).double()
        x = torch.randn(6, 3, dtype=torch.float64)
        jd.backward(model(x).square().mean(0), "upgrad", parallel_chunk_size=size)
        found = model[0].weight.grad.clone()
        model.zero_grad()
        weights = jd.backward(model(x).square().mean(0), "upgrad", parallel_chunk_size=1)
        model.zero_grad()
        model(x).square().mean(0).backward(weights)
        torch.testing.assert_close(found, model[0].weight.grad)

    def test_a_retained_non_leaf_can_be_an_input(self) -> None:
        p = parameter(1.0, 2.0)
        hidden = p * 3
        hidden.retain_grad()
        jd.backward([hidden.sum(), (hidden**2).sum()], "sum", [hidden], retain_graph=True)
        assert hidden.grad is not None
        assert hidden.grad.tolist() == [7.0, 13.0]


class TestJacToGrad:
    def test_two_steps_equal_one(self) -> None:
        p, q = parameter(1.0, 2.0), parameter(1.0, 2.0)
        weights = jd.backward([p[0] - p[1], p[1] * 3 - p[0]], "upgrad")
        jd.backward([q[0] - q[1], q[1] * 3 - q[0]])
        assert q.grad is None
        torch.testing.assert_close(jd.jac_to_grad([q], "upgrad"), weights)
        torch.testing.assert_close(q.grad, p.grad)

    def test_jac_fields_are_freed_unless_retained(self) -> None:
        p = parameter(1.0, 2.0)
        jd.backward([p.sum(), (p**2).sum()])
        jd.jac_to_grad([p], "mean", retain_jac=True)
        assert p.jac.shape == (2, 2)
        jd.jac_to_grad([p], "mean")
        assert not hasattr(p, "jac")

    @pytest.mark.parametrize("method", ["mean", "upgrad", "trimmed-mean"])
    def test_a_jac_that_requires_gradients_leaves_no_graph_in_grad(self, method: str) -> None:
        p = parameter(1.0, 2.0)
        p.jac = torch.ones(3, 2, requires_grad=True) * 2
        config = {"trim_number": 1} if method == "trimmed-mean" else {}
        weights = jd.jac_to_grad([p], {"name": method, **config})
        assert p.grad is not None
        assert not p.grad.requires_grad
        assert weights is None or not weights.requires_grad

    def test_jacobians_accumulate(self) -> None:
        p = parameter(1.0, 2.0)
        for _ in range(2):
            jd.backward([p.sum(), (p**2).sum()])
        assert p.jac.tolist() == [[2.0, 2.0], [4.0, 8.0]]

    def test_jacobians_with_another_number_of_rows_are_refused(self) -> None:
        p = parameter(1.0, 2.0)
        jd.backward([p.sum(), (p**2).sum()])
        with pytest.raises(ValueError, match=r"already has a \.jac of shape \[2, 2\]"):
            jd.backward([p.sum()])

    def test_unreached_parameters_are_skipped_and_named_once(self) -> None:
        p, q = parameter(1.0, 2.0), parameter(3.0, 4.0, 5.0)
        jd.backward([p.sum(), (p**2).sum()])
        with pytest.warns(UserWarning, match=r"do not reach tensors\[1\] of shape \[3\]"):
            jd.jac_to_grad([p, q], "mean", retain_jac=True)
        assert q.grad is None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            jd.jac_to_grad([p, q], "mean", retain_jac=True)
        other = parameter(3.0, 4.0, 5.0)
        with pytest.warns(UserWarning, match=r"do not reach tensors\[2\] of shape \[3\]: skipped"):
            jd.jac_to_grad([p, q, other], "mean", retain_jac=True)
        with pytest.warns(UserWarning, match=r"do not reach tensors\[1\] of shape \[3\]: skipped"):
            jd.jac_to_grad([p, parameter(3.0, 4.0, 5.0)], "mean")

    def test_given_inputs_that_are_not_reached_keep_neither_jac_nor_grad(self) -> None:
        p, q = parameter(1.0, 2.0), parameter(3.0)
        jd.backward([p.sum(), (p**2).sum()], inputs=[p, q])
        assert not hasattr(q, "jac")
        with pytest.raises(ValueError, match="none of the inputs was used to compute"):
            jd.backward([p.sum()], "mean", [q])
        assert (p.grad, q.grad) == (None, None)

    def test_methods_of_the_losses_are_given_them(self) -> None:
        p = parameter(1.0, 2.0)
        losses = [p.square().sum(), p.exp().sum()]
        jd.backward(losses, "db-mtl", retain_graph=True)
        expected, p.grad = p.grad, None
        jd.backward(losses)
        with pytest.raises(ValueError, match="db-mtl needs the losses beside the gradients"):
            jd.jac_to_grad([p], "db-mtl", retain_jac=True)
        jd.jac_to_grad([p], "db-mtl", losses=[loss.detach() for loss in losses])
        torch.testing.assert_close(p.grad, expected)

    @pytest.mark.parametrize("method", ["mgda", "nash-mtl", "imtl-g", "fairgrad"])
    def test_parts_of_a_batch_add_up_to_the_step_of_the_whole(self, method: str) -> None:
        trunk, heads, x = network()
        spec = {"name": method, "alpha": 2.0} if method == "fairgrad" else method
        found = []
        for parts in ([slice(0, 5)], [slice(i, i + 1) for i in range(5)]):
            for module in (trunk, *heads):
                module.zero_grad()
            for part in parts:
                features = trunk(x[part]).tanh()
                losses = [head(features).square().mean() / len(parts) for head in heads]
                jd.mtl_backward(losses, features)
            jd.jac_to_grad(trunk, spec)
            found.append(grads(trunk, *heads))
        torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("method", ["mean", "upgrad", "config"])
    def test_a_jacobian_without_rows_is_named(self, method: str) -> None:
        p = parameter(1.0, 2.0)
        p.jac = torch.zeros(0, 2, dtype=torch.float64)
        with pytest.raises(ValueError, match=r"the \.jac of tensors\[0\] has no rows"):
            jd.jac_to_grad([p], method)
        assert p.grad is None

    def test_modules_stand_for_their_trained_parameters(self) -> None:
        trunk, heads, x = network()
        trunk.bias.requires_grad_(False)
        features = trunk(x).tanh()
        jd.backward([head(features).square().mean() for head in heads], None, [trunk, heads[0]])
        assert trunk.weight.jac.shape == (3, 4, 3)
        jd.jac_to_grad([trunk, heads[0]], "mean")
        assert trunk.bias.grad is None
        assert heads[0].bias.grad is not None
        assert heads[1].bias.grad is None
        with pytest.raises(ValueError, match="inputs has a Tanh without parameters"):
            jd.backward(trunk(x).sum(), "mean", nn.Tanh())

    def test_no_jac_at_all_is_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"no tensor has a \.jac field: call jd\.backward"):
            jd.jac_to_grad([parameter(1.0)], "mean")


class TestJac:
    def test_it_is_torchs_jacobian(self) -> None:
        p, q = parameter(1.0, 2.0), parameter(3.0)

        def outputs(p: Tensor, q: Tensor) -> Tensor:
            return torch.cat([p * q, (p**2).sum().reshape(1)])

        expected = torch.autograd.functional.jacobian(outputs, (p, q))
        for found, wanted in zip(jd.jac(outputs(p, q), [p, q]), expected, strict=True):
            torch.testing.assert_close(found, wanted)

    def test_an_unreached_input_has_a_zero_jacobian(self) -> None:
        p, q = parameter(1.0, 2.0), parameter(3.0)
        assert jd.jac([p.sum(), (p**2).sum()], [p, q])[1].tolist() == [[0.0], [0.0]]

    def test_it_composes_by_the_chain_rule(self) -> None:
        p = parameter(1.0, 2.0)
        hidden = p**2
        outputs = torch.stack([hidden.sum(), hidden.prod()])
        (outer,) = jd.jac(outputs, hidden, retain_graph=True)
        (composed,) = jd.jac(hidden, p, jac_outputs=outer, retain_graph=True)
        torch.testing.assert_close(composed, jd.jac(outputs, p)[0])

    def test_several_outputs_take_one_left_factor_each(self) -> None:
        p = parameter(1.0, 2.0)
        left = [torch.ones(3, 2, dtype=torch.float64), torch.arange(3.0, dtype=torch.float64)]
        (found,) = jd.jac([p * 2, p.sum()], p, jac_outputs=left)
        expected = 2 * left[0] + left[1].unsqueeze(1)
        torch.testing.assert_close(found, expected)


def network() -> tuple[nn.Module, list[nn.Module], Tensor]:
    heads: list[nn.Module] = [nn.Linear(4, 1).double() for _ in range(3)]
    return nn.Linear(3, 4).double(), heads, torch.randn(5, 3, dtype=torch.float64)


def grads(*modules: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for m in modules for p in m.parameters()]


class TestMtlBackward:
    def test_the_trunk_is_aggregated_and_heads_get_their_plain_gradient(self) -> None:
        trunk, heads, x = network()
        features = trunk(x).tanh()
        losses = [head(features).square().mean() for head in heads]
        weights = jd.mtl_backward(losses, features, "upgrad")
        found = grads(trunk, *heads)
        assert weights is not None
        features = trunk(x).tanh()
        losses = [head(features).square().mean() for head in heads]
        expected = torch.autograd.grad(
            losses, list(trunk.parameters()), list(weights), retain_graph=True
        )
        for head in heads:
            expected += torch.autograd.grad(sum(losses), list(head.parameters()), retain_graph=True)
        torch.testing.assert_close(found, list(expected))

    def test_without_an_aggregator_the_trunk_gets_jacobians(self) -> None:
        trunk, heads, x = network()
        features = trunk(x).tanh()
        losses = [head(features).square().mean() for head in heads]
        expected = jd.jac(losses, list(trunk.parameters()), retain_graph=True)
        assert jd.mtl_backward(losses, features) is None
        assert trunk.weight.grad is None
        for shared, jacobian in zip(trunk.parameters(), expected, strict=True):
            torch.testing.assert_close(shared.jac, jacobian)
        assert all(grad is not None for grad in grads(*heads))
        jd.jac_to_grad(trunk.parameters(), "mean")
        assert trunk.weight.grad is not None

    def test_several_features_are_cut_at_each(self) -> None:
        first, second = nn.Linear(3, 4).double(), nn.Linear(3, 4).double()
        x = torch.randn(5, 3, dtype=torch.float64)
        features = [first(x).tanh(), second(x).tanh()]
        losses = [(features[0] * features[1]).mean(), features[1].square().mean()]
        expected = jd.jac(losses, [first.weight, second.weight], retain_graph=True)
        jd.mtl_backward(losses, features)
        torch.testing.assert_close(first.weight.jac, expected[0])
        torch.testing.assert_close(second.weight.jac, expected[1])

    @pytest.mark.parametrize("retain_graph", [False, True])
    def test_a_feature_that_was_computed_from_another_counts_once(self, retain_graph: bool) -> None:
        low, high = nn.Linear(3, 4).double(), nn.Linear(4, 4).double()
        first = low(torch.randn(5, 3, dtype=torch.float64)).tanh()
        second = high(first).tanh()
        losses = [(first * second).mean(), second.square().mean()]
        expected = jd.jac(losses, [low.weight, high.weight], retain_graph=True)
        jd.mtl_backward(losses, [first, second], retain_graph=retain_graph)
        torch.testing.assert_close(low.weight.jac, expected[0])
        torch.testing.assert_close(high.weight.jac, expected[1])

    def test_features_that_are_one_output_of_several_are_cut_exactly(self) -> None:
        trunk = nn.Linear(3, 4).double()
        x = torch.randn(5, 3, dtype=torch.float64)
        left, right = trunk(x).split(2, dim=1)
        losses = [left.square().mean(), (left.sum(1) * right.sum(1)).mean()]
        expected = jd.jac(losses, trunk.weight, retain_graph=True)
        jd.mtl_backward(losses, [left], shared_params=[trunk.weight, trunk.bias])
        torch.testing.assert_close(trunk.weight.jac, expected[0])

    def test_tied_weights_past_the_features_are_counted_in_full(self) -> None:
        shared = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
        x = torch.randn(5, 4, dtype=torch.float64)
        features = (x @ shared).tanh()
        losses = [(features @ shared).square().mean(), features.square().mean()]
        expected = jd.jac(losses, shared, retain_graph=True)
        jd.mtl_backward(losses, features)
        torch.testing.assert_close(shared.jac, expected[0])

    def test_parameters_that_tasks_share_get_the_sum(self) -> None:
        trunk, heads, x = network()
        features = trunk(x)
        middle = heads[0](features)
        losses = [middle.square().mean(), middle.exp().mean()]
        expected = torch.autograd.grad(sum(losses), [heads[0].weight], retain_graph=True)
        jd.mtl_backward(losses, features, "mean")
        torch.testing.assert_close(heads[0].weight.grad, expected[0])

    def test_mappings_are_taken_by_their_names(self) -> None:
        trunk, heads, x = network()
        names = ["depth", "edges", "normals"]
        start = [torch.rand(5, 1, dtype=torch.float64) for _ in heads]
        found = []
        for wrap in (list, lambda values: dict(zip(names, values, strict=True))):
            features = trunk(x)
            outputs = [head(features) for head in heads]
            params, starts = wrap(heads), wrap(start)
            if isinstance(params, dict):  # in another order than the losses
                params = nn.ModuleDict(dict(reversed(params.items())))
                starts = dict(reversed(starts.items()))
            weights = jd.mtl_backward(
                wrap(outputs), features, "mgda", params, trunk, grad_tensors=starts
            )
            found.append([weights, *grads(trunk, *heads)])
            for module in (trunk, *heads):
                module.zero_grad()
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
        outputs = dict(zip(names, [head(trunk(x)).sum() for head in heads], strict=True))
        with pytest.raises(
            ValueError, match=r"tasks_params has the tasks 'a', but losses has 'dep"
        ):
            jd.mtl_backward(outputs, features, "mean", {"a": heads[0]})
        with pytest.raises(ValueError, match=r"losses\['edges'\] of shape \[\] does not require"):
            jd.mtl_backward(outputs | {"edges": torch.tensor(1.0)}, features, "mean")

    def test_given_parameters_that_are_not_reached_are_left_alone(self) -> None:
        trunk, heads, x = network()
        other = nn.Linear(4, 4).double()
        features = trunk(x)
        losses = [head(features).square().mean() for head in heads]
        tasks = [[*head.parameters(), *other.parameters()] for head in heads]
        jd.mtl_backward(losses, features, "mean", tasks, trunk, retain_graph=True)
        assert other.weight.grad is None
        with pytest.raises(ValueError, match="none of the shared_params was used to compute"):
            jd.mtl_backward(losses, features, "mean", [[] for _ in heads], other)

    def test_features_without_a_graph_say_what_to_do(self) -> None:
        trunk, heads, x = network()
        trunk.requires_grad_(False)
        features = trunk(x)
        with pytest.raises(ValueError, match=r"features of shape \[5, 4\].*sum\(losses\)"):
            jd.mtl_backward([head(features).sum() for head in heads], features, "mean")

    def test_grad_tensors_start_non_scalar_losses(self) -> None:
        trunk, heads, x = network()
        start = [torch.rand(5, 1, dtype=torch.float64) for _ in heads]

        def losses(features: Tensor) -> list[Tensor]:
            return [head(features) for head in heads]

        features = trunk(x)
        jd.mtl_backward(losses(features), features, grad_tensors=start)
        found = trunk.weight.jac, heads[1].weight.grad.clone()
        scalars = [(o * s).sum() for o, s in zip(losses(trunk(x)), start, strict=True)]
        torch.testing.assert_close(found[0], jd.jac(scalars, trunk.weight, retain_graph=True)[0])
        torch.testing.assert_close(
            found[1], torch.autograd.grad(scalars[1], heads[1].weight, retain_graph=True)[0]
        )

    def test_it_gives_what_torchjd_gives(self) -> None:
        autojac = pytest.importorskip("torchjd.autojac")
        aggregation = pytest.importorskip("torchjd.aggregation")
        trunk, heads, x = network()
        features = trunk(x).tanh()
        losses = [head(features).square().mean() for head in heads]
        autojac.mtl_backward(losses, features=features, retain_graph=True)
        autojac.jac_to_grad(list(trunk.parameters()), aggregation.Mean())
        expected = grads(trunk, *heads)
        for module in (trunk, *heads):
            module.zero_grad()
        jd.mtl_backward(losses, features, "mean")
        torch.testing.assert_close(grads(trunk, *heads), expected)


def _calls() -> dict[str, tuple[Callable[[], object], str]]:
    p, q = parameter(1.0, 2.0), parameter(3.0, 4.0)
    loss, features = (p * q).sum(), p * 2
    one = torch.ones(2, dtype=torch.float64)
    return {
        "no tensors": (lambda: jd.backward([], "mean"), "tensors is empty"),
        "empty tensor": (lambda: jd.backward(p[:0] * 2, "mean"), "tensors is empty"),
        "repeated": (lambda: jd.backward([loss, loss], "mean"), "tensors contains a tensor more"),
        "repeated input": (lambda: jd.backward(loss, "mean", [p, p]), "inputs contains a tensor"),
        "no graph": (lambda: jd.backward([loss, one.sum()], "mean"), r"tensors\[1\] of shape \[\]"),
        "complex": (lambda: jd.backward([loss, loss * 1j], "mean"), r"tensors\[1\] is complex"),
        "complex loss": (
            lambda: jd.mtl_backward([loss * 1j], p, "mean"),
            r"losses\[0\] is complex",
        ),
        "complex output": (lambda: jd.jac(loss * 1j, p), r"outputs\[0\] is complex"),
        "no inputs": (lambda: jd.backward(loss, "mean", []), "inputs is empty"),
        "no leaf": (lambda: jd.backward(loss, "mean", [p * 2]), "none of the inputs was used"),
        "chunk": (lambda: jd.backward(loss, "mean", parallel_chunk_size=0), "parallel_chunk_size"),
        "rows": (
            lambda: jd.backward(p * 2, jac_tensors=torch.ones(3, 4)),
            r"jac_tensors\[0\] has shape \[3, 4\], but \[m, 2\]",
        ),
        "jac_outputs": (
            lambda: jd.jac([p.sum(), q.sum()], p, jac_outputs=[torch.ones(1)]),
            "jac_outputs has 1 tensors, but outputs has 2",
        ),
        "no features": (lambda: jd.mtl_backward([loss], [], "mean"), "features is empty"),
        "no losses": (lambda: jd.mtl_backward([], features, "mean"), "losses is empty"),
        "no scalar": (
            lambda: jd.mtl_backward([p * q], features, "mean"),
            r"losses\[0\] has shape \[2\]: give scalars, or grad_tensors",
        ),
        "grad_tensors": (
            lambda: jd.mtl_backward([p * q], features, "mean", grad_tensors=[torch.ones(3)]),
            "grad_tensors has the shapes",
        ),
        "tasks": (
            lambda: jd.mtl_backward([loss], features, "mean", [[q], [q]]),
            "tasks_params has 2 entries, but losses has 1",
        ),
        "overlap": (
            lambda: jd.mtl_backward([loss], features, "mean", [[p]], [p]),
            r"tasks_params\[0\] and shared_params have a tensor of shape \[2\] in common",
        ),
        "nothing to aggregate": (lambda: jd.jac_to_grad([], "mean"), "tensors is empty"),
    }


@pytest.mark.parametrize("case", _calls())
def test_a_wrong_argument_is_named(case: str) -> None:
    call, message = _calls()[case]
    with pytest.raises(ValueError, match=message):
        call()
