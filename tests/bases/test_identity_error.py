"""The check of a Gramian by one backward pass: blind to rounding, and to nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.bases import Engine

TOLERANCE = 1e-4
"""What autogram takes for exact in float32."""


@pytest.fixture
def engine() -> Engine:
    torch.manual_seed(0)
    return jd.engine("autojac", nn.Sequential(nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 60)))


def cancelling(engine: Engine) -> Tensor:
    """Three tasks whose weighted gradients cancel to 1e-4 of their length.

    The weights are those that the check draws for three objectives.
    """
    u = torch.randn(3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    torch.manual_seed(1)
    outputs = engine.modules[0](torch.randn(16, 40))
    task, other = outputs.sin().sum(), outputs.square().mean()
    signs = torch.tensor([1.0, 1.0, -2.0])
    near = torch.stack([task, task + 1e-4 * other, task])
    return near * signs / u


def test_gradients_that_cancel_in_single_precision_pass_the_check(engine: Engine) -> None:
    losses = cancelling(engine)
    # As autogram finds it: in single precision, though the Jacobian's entries are exact.
    jacobian = torch.cat([each.flatten(1) for each in engine.compute_jacobian(losses)], 1)
    gramian = jacobian @ jacobian.T
    exact = jacobian.double() @ jacobian.double().T
    norms = exact.diagonal().sqrt()
    assert float(((gramian - exact) / norms.outer(norms)).abs().max()) < 1e-5
    assert engine.identity_error(losses, gramian) < TOLERANCE / 10
    assert engine.verify(losses) < TOLERANCE / 10


@pytest.mark.parametrize("place", [(i, j) for i in range(3) for j in range(i + 1)])
def test_a_mistake_of_one_percent_in_an_entry_is_found_where_gradients_cancel(
    engine: Engine, place: tuple[int, int]
) -> None:
    losses = cancelling(engine)
    gramian = engine.compute_gramian(losses)
    i, j = place
    norms = gramian.diagonal().sqrt()
    wrong = gramian.clone()
    wrong[i, j] = wrong[j, i] = wrong[i, j] + 1e-2 * norms[i] * norms[j]
    assert engine.identity_error(losses, wrong) > 3 * TOLERANCE


def test_a_gramian_that_misses_a_layer_is_found_where_gradients_cancel(engine: Engine) -> None:
    losses = cancelling(engine)
    weight, *_ = engine.compute_jacobian(losses)
    missed = weight.flatten(1) @ weight.flatten(1).T
    assert engine.identity_error(losses, engine.compute_gramian(losses) - missed) > 10 * TOLERANCE


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0, 1e6])
def test_a_gramian_of_another_scale_is_found(engine: Engine, factor: float) -> None:
    losses = cancelling(engine)
    assert engine.identity_error(losses, factor * engine.compute_gramian(losses)) > TOLERANCE
