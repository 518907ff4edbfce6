"""Any method per module, per tensor or per group of the user's, in one pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def made() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def losses_of(model: nn.Module) -> Tensor:
    weight = next(model.parameters())
    x = torch.linspace(-1, 1, 18, dtype=weight.dtype).reshape(6, 3)
    losses: Tensor = (model(x) - torch.tensor([1.0, -1.0, 0.5], dtype=weight.dtype)).square()
    return losses.mean(0)


RULES: dict[str, tuple[Any, list[list[str]]]] = {
    "tensor": (
        "tensor",
        [[f"{i}.{kind}"] for i in (0, 2, 4) for kind in ("weight", "bias")],
    ),
    "module": ("module", [[f"{i}.weight", f"{i}.bias"] for i in (0, 2, 4)]),
    "patterns": (
        [["*.bias"], ["0.*t", "4.weight"]],
        [["0.bias", "2.bias", "4.bias"], ["0.weight", "4.weight"], ["2.weight"]],
    ),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("inner", ["upgrad", "mgda", "aligned-mtl", "excess-mtl"])
def test_each_group_gets_the_update_of_a_descent_on_it_alone(rule: str, inner: str) -> None:
    by, groups = RULES[rule]
    model = made().to(F64)
    step = jd.Descent(model, "grouped", inner=inner, by=by).backward(losses_of(model))
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for group in groups:
        model.zero_grad()
        parameters = [model.get_parameter(name) for name in group]
        jd.backward(losses_of(model), jd.weighting(inner), parameters)
        for name, parameter in zip(group, parameters, strict=True):
            torch.testing.assert_close(found[name], parameter.grad)
    assert step.weights is None
    assert step.gramian is not None
    whole = jd.Descent(model, "mgda", engine="autojac").backward(losses_of(model)).gramian
    torch.testing.assert_close(step.gramian, whole)


def test_one_pass_serves_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made()
    calls: list[int] = []
    engine = jd.engine({"name": "autojac", "parallel_chunk_size": 1}, model)
    rows = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or rows(*a, **k))
    jd.Descent(model, "grouped", inner="upgrad", engine=engine).backward(losses_of(model))
    assert len(calls) == 3


def test_freezing_a_layer_in_mid_training_leaves_the_other_groups_alone() -> None:
    model = made().to(F64)
    descent = jd.Descent(model, "grouped", inner={"name": "gradvac", "seed": 0}, by="module")
    descent.backward(losses_of(model))
    before = descent.state_dict()["inner.targets"].clone()
    model[0].requires_grad_(False)
    model.zero_grad()
    descent.backward(losses_of(model))
    assert model[0].weight.grad is None
    assert model[2].weight.grad is not None
    assert torch.equal(descent.state_dict()["inner.targets"], before)
    assert not torch.equal(descent.state_dict()["others.0.targets"], before)


@pytest.mark.parametrize("inner", ["gradvac", "pcgrad", "cr-mogm"])
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(inner: str) -> None:
    spec = {"name": inner, "inner": "mgda"} if inner == "cr-mogm" else {"name": inner, "seed": 0}

    def trained(model: nn.Module, descent: jd.Descent) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            descent.backward(losses_of(model))
            optimizer.step()

    results = []
    for resumed in (False, True):
        torch.manual_seed(1)
        model = made()
        first = jd.Descent(model, "grouped", inner=spec, by="module")
        trained(model, first)
        second = jd.Descent(model, "grouped", inner=spec, by="module")
        second.load_state_dict(first.state_dict())
        trained(model, second if resumed else first)
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*results)


def test_parameters_of_several_modules_are_named_by_the_modules_position() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    descent = jd.Descent([first, second], "grouped", inner="mgda", by=[["0.*"], ["1.*"]])
    descent.backward(second(first(torch.ones(1, 3)).tanh()).flatten())
    assert first.weight.grad is not None
    with pytest.raises(jd.ConfigError, match="'weight', which matches no parameter"):
        jd.Descent([first, second], "grouped", inner="mgda", by=[["weight"]])


def test_a_pattern_may_match_frozen_parameters_alone() -> None:
    model = made()
    model[0].requires_grad_(False)
    descent = jd.Descent(model, "grouped", inner="mgda", by=[["0.*"], ["2.*", "4.*"]])
    descent.backward(losses_of(model))
    assert model[2].weight.grad is not None


def test_shared_parameters_are_in_the_group_of_their_first_name() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    jd.Descent(model, "grouped", inner="mgda", by=[["0.weight"]]).backward(losses_of(model))
    with pytest.raises(jd.ConfigError, match=r"'2\.weight', which matches no parameter"):
        jd.Descent(model, "grouped", inner="mgda", by=[["2.weight"]])


def test_heads_need_features() -> None:
    trunk, head = nn.Linear(3, 4), nn.Linear(4, 3)
    descent = jd.Descent(trunk, "grouped", inner="mgda", by="tensor")
    features = trunk(torch.randn(5, 3))
    losses = head(features).square().mean(0)
    with pytest.raises(jd.UnsupportedModelError, match=r"without weights.* give\s+features=…"):
        descent.backward(losses)
    descent = jd.Descent(trunk, "grouped", inner="mgda", by="tensor")
    features = trunk(torch.randn(5, 3))
    descent.backward(head(features).square().mean(0), features=features)
    assert trunk.weight.grad is not None
    assert head.weight.grad is not None


@pytest.mark.parametrize(("inner", "engine"), [("upgrad", "autogram"), ("graddrop", "autojac")])
def test_the_jacobian_is_formed_only_for_an_inner_method_that_needs_it(
    inner: str, engine: str
) -> None:
    descent = jd.Descent(made(), "grouped", inner=inner)
    assert descent.engine is not None
    assert descent.engine.name == engine


@pytest.mark.parametrize("by", ["tensor", "module", [["0.*"], ["2.bias"]]])
def test_without_the_jacobian_it_gives_the_same(by: object) -> None:
    found = []
    for engine in ("autogram", "autojac"):
        torch.manual_seed(0)
        model = made().to(F64)
        jd.Descent(model, "grouped", inner="upgrad", by=by, engine=engine).backward(
            losses_of(model)
        )
        found.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*found)


def test_the_functional_interface_serves_tensors_as_groups() -> None:
    model = made().to(F64)
    weights = jd.backward(losses_of(model), jd.aggregator("grouped", inner="upgrad"))
    assert weights is None
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    jd.Descent(model, "grouped", inner="upgrad", by="tensor").backward(losses_of(model))
    for first, second in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(first, second.grad)
    with pytest.raises(jd.ConfigError, match=r"use it through jd.Descent\(model, 'grouped', …\)"):
        jd.backward(losses_of(model), jd.aggregator("grouped", inner="upgrad", by="module"))


def test_a_gradient_that_is_not_finite_is_refused_before_any_group_is_served() -> None:
    model = made()
    first, second = losses_of(model)[:2]
    losses = [first, (0 * second).sqrt()]
    descent = jd.Descent(model, "grouped", inner={"name": "gradvac", "seed": 0}, by="module")
    with pytest.raises(jd.NonFiniteError, match="the gradient of objective '1' is not finite"):
        descent.backward(losses)
    assert not descent.state_dict()["inner.targets"].numel()
    assert all(p.grad is None for p in model.parameters())
