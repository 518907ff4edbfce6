"""What a training loop has forgotten is said once, and what it means to do is not."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd


def losses_of(model: nn.Module) -> Tensor:
    found: Tensor = model(torch.ones(4, 3)).square().mean(0)
    return found


@pytest.mark.parametrize("settings", [{"batch_dim": 0}, {}], ids=str)
@pytest.mark.parametrize("method", ["upgrad", "uw"])
def test_one_scalar_is_said_to_be_plain_training(method: str, settings: dict[str, Any]) -> None:
    model = nn.Linear(3, 2)
    config = {"shape": ()} if method == "uw" else {}
    descent = jd.Descent(model, method, **settings, **config)
    with pytest.warns(UserWarning, match="reduction='none'"):
        descent.backward(losses_of(model).mean())
    descent.backward(losses_of(model).mean())  # and not again


@pytest.mark.parametrize("method", ["uw", "imtl-l", "imtl"])
def test_learned_weights_that_no_optimizer_has_are_named(method: str) -> None:
    model = nn.Linear(3, 2)
    descent = jd.Descent(model, method, shape=2)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def train(steps: int) -> None:
        for _ in range(steps):
            descent.backward(losses_of(model))
            optimizer.step()
            optimizer.zero_grad()

    with pytest.warns(UserWarning, match=r"\*descent\.parameters\(\)"):
        train(5)
    train(5)  # and not again


@pytest.mark.parametrize("accumulated", [1, 8])
def test_learned_weights_that_an_optimizer_has_are_no_reason_to_warn(accumulated: int) -> None:
    model = nn.Linear(3, 2)
    descent = jd.Descent(model, "uw", shape=2)
    optimizer = torch.optim.Adam([*model.parameters(), *descent.parameters()], 0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            for _ in range(accumulated):
                descent.backward(losses_of(model))
            optimizer.step()
            optimizer.zero_grad()


def test_weights_that_are_frozen_on_purpose_are_no_reason_to_warn() -> None:
    model = nn.Linear(3, 2)
    descent = jd.Descent(model, "uw", shape=2)
    descent.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            descent.backward(losses_of(model))
            optimizer.step()
