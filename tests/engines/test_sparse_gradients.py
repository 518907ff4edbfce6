"""Where autograd's gradient is sparse, the update that is added to ``.grad`` is sparse too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd

from .truth import ENGINES

pytestmark = pytest.mark.filterwarnings("ignore:.*differentiates one objective at a time")

TABLES: dict[str, Callable[[], nn.Module]] = {
    "embedding": lambda: nn.Embedding(9, 3, sparse=True),
    "bag": lambda: nn.EmbeddingBag(9, 3, mode="sum", sparse=True),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "cosmos": {"lambda_": 0.5, "weights": [0.3, 0.7]},
    "pbi": {"theta": 1.0, "weights": [0.3, 0.7]},
    "stch": {"mu": 1.0},
    "constant": {"weights": [0.3, 0.7]},
    **{name: {"shape": (2,)} for name in ("imtl-l", "uw", "famo")},
}
METHODS = [
    *(("upgrad", engine) for engine in ENGINES),
    *(("graddrop", engine) for engine in ENGINES if engine != "autogram"),
    *((name, "auto") for name in jd.available("scalarizer")),
]


def model_of(table: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    width = 3 if isinstance(table, nn.EmbeddingBag) else 12
    return nn.Sequential(table, nn.Flatten(), nn.Linear(width, 2))


def losses_of(model: nn.Module) -> Tensor:
    tokens = torch.tensor([[0, 1, 1, 3], [4, 3, 0, 0]])
    found: Tensor = model(tokens).square().mean(0)
    return found


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("method", "engine"), METHODS)
def test_sparse_adam_takes_the_update_of_every_method(method: str, engine: str, table: str) -> None:
    model = model_of(TABLES[table]())
    descent = jd.Descent(model, method, engine=engine, **SETTINGS.get(method, {}))
    weight = model[0].weight
    before = weight.detach().clone()
    optimizer = torch.optim.SparseAdam([weight])
    for _ in range(2):
        step = descent.backward(losses_of(model))
        grad = weight.grad
        assert grad is not None
        assert grad.layout is torch.sparse_coo
        if step.weights is not None:
            (expected,) = torch.autograd.grad(losses_of(model), weight, step.weights)
            torch.testing.assert_close(grad.to_dense(), expected.to_dense())
        descent.backward(losses_of(model))  # sparse is added to sparse
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(weight[[2, 5, 6, 7, 8]], before[[2, 5, 6, 7, 8]])
    assert not torch.equal(weight[0], before[0])


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
def test_a_refused_step_leaves_a_sparse_grad_as_it_was(engine: str) -> None:
    model = model_of(nn.Embedding(9, 3, sparse=True))
    method = "mean" if engine == "auto" else "upgrad"
    descent = jd.Descent(model, method, engine=engine)
    descent.backward(losses_of(model))
    before = [p.grad.to_dense().clone() for p in model.parameters()]
    model[2].bias.register_hook(lambda gradient: gradient / 0)
    model[2].weight.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        descent.backward(losses_of(model))
    torch.testing.assert_close([p.grad.to_dense() for p in model.parameters()], before)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_dense_update_is_added_to_a_sparse_grad_as_in_autograd(engine: str) -> None:
    model, control = (model_of(nn.Embedding(9, 3)) for _ in range(2))
    for each in (model, control):
        each[0].weight.grad = torch.ones(9, 3).to_sparse(1)
    weights = jd.Descent(model, "upgrad", engine=engine).backward(losses_of(model)).weights
    losses_of(control).backward(weights)
    for name, parameter in model.named_parameters():
        expected = control.get_parameter(name).grad
        assert parameter.grad.layout == expected.layout
        torch.testing.assert_close(parameter.grad, expected)


def test_a_gradient_of_sparse_rows_that_is_not_finite_is_refused_by_name() -> None:
    model = model_of(nn.Embedding(9, 3, sparse=True))
    with torch.no_grad():
        model[2].weight.fill_(torch.inf)
    losses = (model[0](torch.tensor([[0, 1]])).sum((1, 2)).sqrt() * torch.ones(2)).nan_to_num(1.0)
    with pytest.raises(jd.NonFiniteError, match="'0.weight' is not"):
        jd.Descent(model, "mean").backward(losses * 0 + losses.sub(losses.detach()).sqrt())
