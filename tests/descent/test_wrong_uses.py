"""What people write by mistake is refused with the line that they meant."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchjd.aggregation
from torch import Tensor, nn

import jdframework as jd
from jdframework.errors import ConfigError


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
        (lambda loss: {"a": loss, "b": loss}, TypeError, r"\{'seg/a', 'seg/b'\}"),
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
