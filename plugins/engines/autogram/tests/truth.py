"""What plain autograd says, which is the truth that these tests hold the engine to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from jdframework.autograd.graph import gradients
from jdframework.bases import GramianWeighting

from jd_plugin_autogram import Autogram

F64 = torch.float64


class Ramp(GramianWeighting):
    """Weights 1, 2, 3 and so on, so that these tests need no other plugin."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return torch.arange(1.0, 1.0 + len(gramian)).to(gramian)


def reference(losses: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The Gramian by one ordinary backward pass per objective."""
    rows = []
    for loss in losses.flatten().unbind():
        found = gradients([loss], parameters, None, retain_graph=True)
        pairs = zip(found, parameters, strict=True)
        rows.append(
            torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
        )
    jacobian = torch.stack(rows).double()
    return jacobian @ jacobian.T


def assert_served(
    model: nn.Module,
    losses: Callable[[], Tensor],
    tolerance: float = 1e-10,
    batch_dim: int | None = 0,
    **config: object,
) -> Autogram:
    """The Gramian, the identity and the fused update are those of autograd.

    :param losses: Runs the model; the same every time.
    """
    engine = Autogram(model, batch_dim=batch_dim, **config)
    given = losses()
    expected = reference(given, engine.parameters)
    found = engine.compute_gramian(given)
    atol = tolerance * float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=atol)
    assert engine.verify(given) <= 10 * tolerance
    for step in range(2):  # the second does without what the first has checked
        weights = engine.backward(losses(), Ramp())
        assert weights is not None
        assert_gradient(model, losses, weights, tolerance, f"step {step}")
    return engine


def assert_gradient(
    model: nn.Module, losses: Callable[[], Tensor], weights: Tensor, tolerance: float, what: str
) -> None:
    """``.grad`` is that of ``losses.backward(weights)``; it is None again afterwards."""
    updates = [p.grad for p in model.parameters()]
    model.zero_grad()
    given = losses()
    given.backward(weights.reshape(given.shape).to(given.dtype))
    wanted = [p.grad for p in model.parameters()]
    model.zero_grad()
    assert layouts(updates) == layouts(wanted)
    update, gradient = joined(updates), joined(wanted)
    atol = tolerance * float(gradient.abs().max())
    torch.testing.assert_close(update, gradient, rtol=0, atol=atol, msg=lambda m: f"{what}: {m}")


def layouts(gradients: Sequence[Tensor | None]) -> list[torch.layout | None]:
    """Dense or sparse; None where there is no gradient."""
    return [None if gradient is None else gradient.layout for gradient in gradients]


def joined(tensors: Sequence[Tensor | None]) -> Tensor:
    return torch.cat([tensor.to_dense().flatten() for tensor in tensors if tensor is not None])


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, group: str, module: ModuleType) -> None:
    """A distribution ``third-party``, which offers ``It`` of a module in a group as ``theirs``."""
    metadata = folder / "third_party-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\ntheirs = {module.__name__}:It\n")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.syspath_prepend(folder)


def one(output: Tensor) -> Tensor:
    """One loss per instance, ``[n]``."""
    return (output - 0.5).flatten(1).square().mean(1)


def several(output: Tensor) -> Tensor:
    """Three losses per instance, ``[n, 3]``."""
    columns = output.flatten(1)
    return columns[:, :3].square() + columns.sin().mean(1, keepdim=True)


def grid(output: Tensor) -> Tensor:
    """``[n, 2, 2]``."""
    columns = several(output)
    return torch.stack([columns[:, :2], columns[:, 1:].exp()], dim=2)


def tasks(output: Tensor) -> Tensor:
    """Three losses, each of the whole batch."""
    columns = (output - 0.5).flatten(1)
    return torch.stack([columns[:, task::3].square().mean() for task in range(3)])


def two_dimensional_tasks(output: Tensor) -> Tensor:
    """``[2, 2]``, each of the whole batch."""
    columns = tasks(output)
    return torch.outer(columns[:2], columns[1:])
