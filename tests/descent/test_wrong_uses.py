"""What people write by mistake is refused with the line that they meant."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torchjd.aggregation
from pydantic import Field
from torch import Tensor, nn

import jdframework as jd
from jdframework.bases import GramianWeighting
from jdframework.config import Config
from jdframework.errors import ConfigError


class Placed(GramianWeighting):
    """A weighting that remembers objectives by place, and takes a step of fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.zeros(3))

    def forward(self, gramian: Tensor, /) -> Tensor:
        return torch.ones_like(gramian.diagonal())


class Adjustable(GramianWeighting):
    """A weighting with a setting that may be assigned."""

    class Config(Config):
        scale: float = Field(1.0, description="Of all weights.")

    assignable = frozenset({"scale"})

    @property
    def scale(self) -> float:
        return float(self.config.scale)

    def forward(self, gramian: Tensor, /) -> Tensor:
        return torch.full_like(gramian.diagonal(), self.config.scale)


def two_losses(model: nn.Module) -> Tensor:
    found: Tensor = model(torch.ones(4, 3)).square().mean(0)
    return found


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (lambda m: (torch.optim.SGD(m.parameters(), 0.1), "upgrad"), r"jd\.Descent\(model, …\)"),
        (lambda m: ("upgrad", m), r"jd\.Descent\(model, 'upgrad'\)"),
        (lambda m: (m, type(jd.weighting("upgrad"))), r"UPGrad\(…\), or the method's name"),
        (lambda m: (m, torchjd.aggregation.UPGrad()), "torchjd's UPGrad was given"),
        (lambda m: ([], "upgrad"), "an empty sequence"),
        (lambda m: (torch.ones(10_000), "upgrad"), r"a tensor of shape \[10000\]"),
        (lambda m: (dict(m.named_parameters()), "upgrad"), r"Descent\(model\.parameters\(\), …"),
        (lambda m: (m.state_dict(), "upgrad"), r"Descent\(model\.parameters\(\), …"),
        (lambda m: (m.named_parameters(), "upgrad"), r"pairs.*jd\.Descent\(model, …"),
        (lambda m: (torch.optim.SGD(m.parameters()).param_groups, "upgrad"), "Descent.model, …"),
        (lambda m: ({"trunk": m}, "upgrad"), r"jd\.Descent\(\[\*modules\.values\(\)\], …"),
        (lambda m: (nn.Linear, "upgrad"), r"model = Linear\(…\)"),
        (lambda m: ({"name": "upgrad"}, m), r"jd\.Descent\(model, \{'name': 'upgrad', …\}\)"),
        (lambda m: (jd.weighting("upgrad"), m), r"jd\.Descent\(model, 'upgrad'\)"),
        (lambda m: (jd.aggregator("upgrad"), m), r"jd\.Descent\(model, 'upgrad'\)"),
        (lambda m: (m, torch.optim.SGD(m.parameters(), 0.1)), r"jd\.Descent\(model, 'upgrad'\)"),
        (lambda m: (m, jd.engine("autojac")), "'upgrad', engine=…"),
        (lambda m: (m, m), r"jd\.Descent\(\[trunk, head\], 'upgrad'\)"),
        (lambda m: (m, [m] * 99), "not list$"),
    ],
)
def test_what_is_given_in_the_wrong_place_is_named(arguments: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as refusal:
        jd.Descent(*arguments(nn.Linear(3, 2)))
    assert len(str(refusal.value)) < 250


@pytest.mark.parametrize(
    ("keyword", "meant"),
    [("batchdim", "batch_dim"), ("batch_dims", "batch_dim"), ("on_non_finite", "on_nonfinite")],
)
def test_a_mistyped_keyword_is_not_taken_for_the_methods(keyword: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {meant}="):
        jd.Descent(nn.Linear(3, 2), "upgrad", **{keyword: 0})


@pytest.mark.parametrize(
    ("engine", "sentence"),
    [
        (type(jd.engine("autojac")), "engine='autojac'"),
        (jd.weighting("upgrad"), "engine='auto'"),
        (nn.Linear(300, 300), "engine=<Linear>.*engine='auto'"),
        (None, "engine=None.*engine='auto'"),
    ],
    ids=["class", "weighting", "module", "None"],
)
def test_an_engine_is_given_by_its_name_or_as_an_instance(engine: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        jd.Descent(nn.Linear(3, 2), "upgrad", engine=engine)


@pytest.mark.parametrize("method", ["upgrad", "sum"])
@pytest.mark.parametrize("batch_dim", ["0", True, 0.0])
def test_a_batch_dimension_is_a_whole_number(batch_dim: Any, method: str) -> None:
    with pytest.raises(ConfigError, match="batch_dim=0, or None"):
        jd.Descent(nn.Linear(3, 2), method, batch_dim=batch_dim)


@pytest.mark.parametrize(
    ("assigned", "line"),
    [
        ({"c": 1.0}, r"jd\.Descent\(model, 'cagrad', c=1\.0\)"),
        ({"batch_dim": 0}, r"jd\.Descent\(model, 'cagrad', batch_dim=0\)"),
        ({"batchdim": 0}, r"jd\.Descent\(model, 'cagrad', batch_dim=0\)"),
        ({"engine": "autojac"}, r"jd\.Descent\(model, 'cagrad', engine='autojac'\)"),
        ({"on": "features"}, "on='features'"),
        ({"on_nonfinite": "skip"}, "on_nonfinite='skip'"),
        ({"process_group": False}, "process_group=False"),
        ({"method": jd.weighting("mgda")}, r"jd\.Descent\(model, …\)"),
        ({"config": None}, r"jd\.Descent"),
    ],
    ids=str,
)
def test_what_a_descent_was_made_with_is_not_assigned(assigned: dict[str, Any], line: str) -> None:
    descent = jd.Descent(nn.Linear(3, 2), "cagrad")
    before = descent.method
    for name, value in assigned.items():
        with pytest.raises(ConfigError, match=line):
            setattr(descent, name, value)
    assert descent.method is before


def test_a_setting_that_the_method_lets_be_assigned_is_the_methods() -> None:
    model = nn.Linear(3, 2)
    descent = jd.Descent(model, Adjustable(scale=1.0))
    with pytest.raises(ConfigError, match=r"descent\.method\.scale = 2\.0"):
        descent.scale = 2.0
    descent.method.scale = 2.0
    step = descent.backward(two_losses(model))
    assert step.weights is not None
    assert step.weights.tolist() == [2.0, 2.0]


def test_a_descent_keeps_what_every_module_has() -> None:
    descent = jd.Descent(nn.Linear(3, 2), "cagrad")
    descent.method = descent.method
    descent.note = "mine"
    descent.extra = nn.Linear(1, 1)
    descent.register_buffer("seen", torch.zeros(2))
    descent.train(False)
    descent.training = True
    assert not descent.method.training
    assert {name for name, _ in descent.named_children()} == {"method", "extra"}
    again = copy.deepcopy(descent)
    assert again.note == "mine"
    with pytest.raises(ConfigError, match=r"c=1\.0"):
        again.c = 1.0


def test_a_mistyped_setting_is_still_the_methods() -> None:
    with pytest.raises(ConfigError, match="cagrad"):
        jd.Descent(nn.Linear(3, 2), "cagrad", d=1.0)


def test_losses_side_by_side_are_told_to_go_together() -> None:
    model = nn.Linear(3, 2)
    first, second = two_losses(model)
    with pytest.raises(TypeError, match=r"backward\(\[loss_1, loss_2, …\]\)"):
        jd.Descent(model, "upgrad").backward(first, second)


@pytest.mark.parametrize(
    ("entry", "error", "sentence"),
    [
        (lambda loss: {"a": loss, "b": loss}, TypeError, r"\{'seg/a': …, 'seg/b': …\}"),
        (lambda loss: [loss, loss], TypeError, "is a list.*give each its own entry, or their sum"),
        (lambda loss: None, TypeError, r"losses\['seg'\] is None.*leave this objective out"),
        (lambda loss: 0.0, TypeError, r"losses\['seg'\] is 0\.0.*leave this objective out"),
        (lambda loss: torch.tensor(0.0), ValueError, "no labels in this batch, leave it out"),
    ],
)
def test_a_loss_that_is_none_says_what_to_write(
    entry: Any, error: type[Exception], sentence: str
) -> None:
    model = nn.Linear(3, 2)
    first, second = two_losses(model)
    with pytest.raises(error, match=sentence):
        jd.Descent(model, "upgrad").backward({"depth": first, "seg": entry(second)})


@pytest.mark.parametrize(
    ("losses", "sentence"),
    [
        (lambda losses: 3, "int: .*without .item()"),
        (lambda losses: losses.sum().item(), "float: .*without .item()"),
        (lambda losses: None, "NoneType: .*may lack its return"),
        (lambda losses: "losses", r"str: as in backward\(\[loss_1, loss_2\]\)"),
        (set, "set: a set has no order"),
        (lambda losses: lambda: losses, r"function: call it first"),
    ],
)
def test_losses_that_are_none_say_what_to_write(losses: Any, sentence: str) -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(TypeError, match=f"losses must be a tensor, a sequence .*{sentence}"):
        jd.Descent(model, "upgrad").backward(losses(two_losses(model)))


def test_one_tensor_is_not_two_objectives() -> None:
    model = nn.Linear(3, 2)
    first, second = two_losses(model)
    descent = jd.Descent(model, "upgrad")
    with pytest.raises(ValueError, match=r"losses\['0'\] and losses\['2'\] are one and the same"):
        descent.backward([first, second, first])
    with pytest.raises(ValueError, match=r"losses\['a'\] and losses\['b'\] are one and the same"):
        descent.backward({"a": first, "b": first})
    descent.backward([first, first * 1.0])


@pytest.mark.parametrize("method", ["upgrad", "sum"])
def test_an_empty_batch_is_named(method: str) -> None:
    model = nn.Linear(3, 2)
    outputs = model(torch.ones(0, 3)).square()
    with pytest.raises(jd.NonFiniteError, match=r"\(an empty batch\?\)"):
        jd.Descent(model, method).backward(outputs.mean(0))
    with pytest.raises(ValueError, match="leave the step out where a batch has no instance"):
        jd.Descent(model, method, batch_dim=0).backward(outputs.mean(1))


def test_a_call_of_the_descent_names_backward() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(TypeError, match=r"descent\.backward\(losses\)"):
        jd.Descent(model, "upgrad")(two_losses(model))


def test_a_scale_is_no_scaler() -> None:
    model = nn.Linear(3, 2)
    scale: Any = 1024.0
    with pytest.raises(TypeError, match=r"scaler=torch\.amp\.GradScaler\(\)"):
        jd.Descent(model, "upgrad").backward(two_losses(model), scaler=scale)


def named_losses(model: nn.Module, *nan: str) -> dict[str, Tensor]:
    rows: Tensor = model(torch.ones(4, 3)).square().mean(0)
    return {
        n: loss * (float("nan") if n in nan else 1.0) for n, loss in zip("abc", rows, strict=True)
    }


def test_a_loss_that_is_not_finite_may_be_dropped_alone_where_it_is_one_tensor() -> None:
    model = nn.Linear(3, 3)
    descent = jd.Descent(model, "upgrad")
    with pytest.raises(jd.NonFiniteError, match="on_nonfinite='skip'.*, and 'drop' only what"):
        descent.backward(named_losses(model, "b"))
    with pytest.raises(jd.NonFiniteError, match="would leave such steps out$"):
        descent.backward(torch.stack([*named_losses(model, "b").values()]))


def test_a_step_that_drops_an_objective_leaves_the_remembered_places() -> None:
    model = nn.Linear(3, 3)
    descent = jd.Descent(model, Placed(), on_nonfinite="drop")
    descent.backward(named_losses(model))
    descent.backward(named_losses(model, "b"))
    assert descent.method.objective_names == ("a", "b", "c")
    exchanged = dict(reversed(named_losses(model).items()))
    with pytest.raises(ValueError, match="in the same order"):
        descent.backward(exchanged)


def test_places_of_a_step_that_dropped_one_are_not_those_of_another_that_did() -> None:
    model = nn.Linear(3, 3)
    descent = jd.Descent(model, "gradnorm", on_nonfinite="drop")
    descent.backward(named_losses(model, "b"))
    with pytest.raises(ValueError, match="the step before had 'a', 'c'"):
        descent.backward(named_losses(model, "a"))


def test_parameters_are_taken_in_place_of_modules() -> None:
    model = nn.Linear(3, 2)
    step = jd.Descent(model.parameters(), "upgrad", engine="autojac").backward(two_losses(model))
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    again = jd.Descent(model, "upgrad", engine="autojac").backward(two_losses(model))
    assert step.weights is not None
    assert again.weights is not None
    torch.testing.assert_close(step.weights, again.weights)
    for mine, theirs in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs.grad)


def test_a_task_without_a_finite_loss_is_dropped_alone() -> None:
    model, heads = nn.Linear(3, 4), nn.ModuleList([nn.Linear(4, 1) for _ in range(3)])
    features = model(torch.randn(5, 3))
    losses = {f"task{i}": head(features).square().mean() for i, head in enumerate(heads)}
    losses["task1"] = losses["task1"] * float("nan")
    descent = jd.Descent(model, "upgrad", on_nonfinite="drop")
    step = descent.backward(losses, features=features, retain_graph=True)
    assert step.names == ("task0", "task2")
    assert not step.skipped
    found = model.weight.grad.clone()
    assert heads[1].weight.grad is None
    model.zero_grad()
    others = {name: loss for name, loss in losses.items() if name != "task1"}
    jd.Descent(model, "upgrad").backward(others, features=features)
    torch.testing.assert_close(model.weight.grad, found)


def test_a_step_of_nothing_but_nan_is_skipped_where_tasks_are_dropped() -> None:
    model = nn.Linear(3, 2)
    losses = [loss * float("nan") for loss in two_losses(model)]
    step = jd.Descent(model, "upgrad", on_nonfinite="drop").backward(losses)
    assert step.skipped
    assert model.weight.grad is None
