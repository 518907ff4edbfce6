"""A graph that an engine refuses is served by the next one, and other graphs as before."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.bases import GramianWeighting
from jdframework.errors import UnsupportedModelError


class Ramp(GramianWeighting):
    """Weights 1, 2, 3 and so on."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return torch.arange(1.0, 1.0 + len(gramian)).to(gramian)


def model_and_losses(m: int = 6) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    return model, torch.randn(m, 4)


def expected(model: nn.Module, losses: Tensor, weights: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(losses, list(model.parameters()), weights))


def test_one_odd_batch_does_not_make_later_steps_slower() -> None:
    model, x = model_and_losses()
    descent = jd.Descent(model, Ramp(), batch_dim=0)
    mixing = torch.eye(6) * 2 - 0.1

    def losses() -> Tensor:
        return model(x).square().flatten()

    assert descent.backward(losses()).engine == "autogram"
    with pytest.warns(UserWarning, match="autogram does not serve this step, and autojac does"):
        odd = descent.backward(mixing @ losses())
    assert odd.engine == "autojac"
    assert "autogram" in odd.reason
    for _ in range(4):
        model.zero_grad()
        step = descent.backward(losses())
        assert step.engine == "autogram"
        assert step.weights is not None
        for parameter, found in zip(
            model.parameters(), expected(model, losses(), step.weights), strict=True
        ):
            torch.testing.assert_close(parameter.grad, found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        assert descent.backward(mixing @ losses()).engine == "autojac"
    assert descent.backward(losses()).engine == "autogram"


def test_a_first_batch_that_is_odd_does_not_decide_for_all() -> None:
    model, x = model_and_losses()
    descent = jd.Descent(model, Ramp(), batch_dim=0)
    with pytest.warns(UserWarning, match="does not serve this step"):
        assert descent.backward((torch.eye(6) - 0.1) @ model(x).flatten()).engine == "autojac"
    assert descent.backward(model(x).square().flatten()).engine == "autogram"


def test_a_refusal_that_comes_late_ends_the_step_with_its_own_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = model_and_losses()
    descent = jd.Descent(model, Ramp(), batch_dim=0)
    descent.backward(model(x).square().flatten())
    model.zero_grad()
    losses = model(x).square().flatten()
    assert descent.engine is not None

    def consume(outputs: Sequence[Tensor], *_: Any, **__: Any) -> Any:
        torch.autograd.grad(outputs[0].sum(), list(model.parameters()))
        raise UnsupportedModelError("this came late")

    monkeypatch.setattr(descent.engine, "linearize", consume)
    with (
        pytest.warns(UserWarning, match="this came late"),
        pytest.raises(UnsupportedModelError, match="this came late"),
    ):
        descent.backward(losses)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_where_no_engine_serves_each_reason_is_said_once_on_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Point(nn.Module):
        """One whose derivative is part of the loss, as in a physics-informed network."""

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))

        def forward(self, x: Tensor) -> list[Tensor]:
            u = self.net(x)
            (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
            return [du.square().mean(), u.square().mean()]

    model = Point()
    x = torch.randn(5, 1, requires_grad=True)
    with pytest.raises(UnsupportedModelError) as refused:
        jd.Descent(model, "graddrop").backward(model(x))
    text = str(refused.value)
    assert text.count("requires_grad_(False)") == 1
    assert len(text) < 450
