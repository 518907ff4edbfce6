"""Where new tensors go by default, and of which type, matters to no engine and to no method."""

from __future__ import annotations

from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd

_SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "cagrad": {"c": 0.5},
    "constant": {"weights": [0.2, 0.3, 0.5]},
    "cosmos": {"lambda_": 0.1, "weights": [0.2, 0.3, 0.5]},
    "cr-mogm": {"inner": "mgda"},
    "fairgrad": {"alpha": 1.0},
    "famo": {"shape": 3},
    "flattening": {"inner": "upgrad"},
    "grouped": {"inner": "upgrad"},
    "imtl": {"shape": 3},
    "imtl-l": {"shape": 3},
    "krum": {"n_byzantine": 0},
    "pbi": {"theta": 1.0, "weights": [0.2, 0.3, 0.5]},
    "stch": {"mu": 1.0},
    "trimmed-mean": {"trim_number": 1},
    "uw": {"shape": 3},
}
_METHODS: Final = [
    (kind, name)
    for kind in ("weighting", "aggregator", "scalarizer")
    for name in jd.available(kind)
    if name not in {"config", "mean", "sum"}
]


class _Scale(nn.Module):
    """A layer that no engine has a rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = nn.Parameter(torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.logs.exp()


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), _Scale(), nn.LayerNorm(6), nn.Linear(6, 3))


def _set(default: str) -> None:
    if default == "meta":
        torch.set_default_device("meta")
    else:
        torch.set_default_dtype(torch.float64)


def _gradients(
    model: nn.Module, method: Any, default: str | None, losses: list[Tensor], **settings: Any
) -> list[Tensor | None]:
    try:
        if default is not None:
            _set(default)
        if callable(method):
            method = method()
        descent = jd.Descent(model, method, **settings)
        needs = getattr(descent.method, "needs", frozenset())
        others = {}
        if "cross-gramian" in needs:
            allowed = getattr(descent.method, "independent_batches", (1, 2))
            others["independent"] = losses[1] if 1 in allowed else tuple(losses[1:])
        descent.backward(losses[0], **others)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    return found


@pytest.mark.parametrize("default", ["meta", "float64"])
@pytest.mark.parametrize(("kind", "name"), _METHODS)
def test_a_step_does_not_depend_on_the_defaults_of_torch(
    kind: str, name: str, default: str
) -> None:
    model = _model()
    spec = {"name": name, **_SETTINGS.get(name, {})}
    batches = torch.randn(3, 5, 4)

    def step(default: str | None) -> list[Tensor | None]:
        losses = [model(batch).square().mean(0) for batch in batches]
        torch.manual_seed(1)
        return _gradients(model, lambda: getattr(jd, kind)(spec), default, losses)

    _assert_alike(step(None), step(default))


@pytest.mark.parametrize("default", ["meta", "float64"])
@pytest.mark.parametrize("batch_dim", [0, None])
@pytest.mark.parametrize("engine", ["autojac", "autogram", "chunked"])
def test_an_engine_does_not_depend_on_the_defaults_of_torch(
    engine: str, batch_dim: int | None, default: str
) -> None:
    model, batch = _model(), torch.randn(5, 4)

    def step(default: str | None) -> list[Tensor | None]:
        losses = model(batch).square().mean(1 if batch_dim == 0 else 0)
        settings = {"engine": engine, "batch_dim": batch_dim}
        return _gradients(model, "upgrad", default, [losses], **settings)

    _assert_alike(step(None), step(default))


@pytest.mark.parametrize("engine", ["autojac", "autogram", "chunked"])
def test_a_model_made_on_meta_is_served_once_it_is_materialised(engine: str) -> None:
    with torch.device("meta"):
        model = _model()
    descent = jd.Descent(model, "upgrad", engine=engine, batch_dim=0)
    model.to_empty(device="cpu")
    model.load_state_dict(_model().state_dict())
    descent.backward(model(torch.randn(5, 4)).square().mean(1))
    assert all(p.grad is not None and p.grad.device.type == "cpu" for p in model.parameters())


def _assert_alike(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        assert other is not None
        torch.testing.assert_close(one, other)
