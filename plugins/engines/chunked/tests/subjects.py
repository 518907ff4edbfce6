"""Methods of every sort, models, and the plain truth: kernel and torch only."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from jdframework.autograd.graph import gradients
from jdframework.bases import (
    Aggregator,
    GramianWeighting,
    JacobianEngine,
    JacobianWeighting,
    Randomised,
    SeededConfig,
)


class Balancing(GramianWeighting):
    """Weights from the Gramian, each of which depends on all of it."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        shift = gramian.trace() * torch.eye(len(gramian)).to(gramian)
        return torch.linalg.solve(gramian + shift, gramian.sum(0))


class LargestEntries(JacobianWeighting):
    """Weights by the largest entry of each row: a function of the whole Jacobian."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return torch.linalg.vector_norm(jacobian, torch.inf, dim=1)


class Trimmed(Aggregator):
    """The second largest value of each column."""

    column_wise: ClassVar[bool] = True

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian.sort(dim=0).values[-2:].amin(0)


class Drawing(Randomised, Aggregator):
    """A random row for each column."""

    Config: ClassVar[type[SeededConfig]] = SeededConfig
    column_wise: ClassVar[bool] = True

    def forward(self, jacobian: Tensor, /) -> Tensor:
        m, n = jacobian.shape
        rows = (torch.rand(n, generator=self.generator) * m).long().to(jacobian.device)
        return jacobian.sort(dim=0).values.gather(0, rows[None])[0]


class SpectralDirection(Aggregator):
    """The largest row, divided by the norm of the whole: a function of the whole Jacobian."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian[jacobian.norm(dim=1).argmax()] / jacobian.norm()


METHODS: dict[str, type[Any]] = {
    "Gramian weighting": Balancing,
    "Jacobian weighting": LargestEntries,
    "column-wise aggregator": Trimmed,
    "random column-wise aggregator": Drawing,
    "general aggregator": SpectralDirection,
}


def method(name: str) -> Any:
    """A fresh one."""
    return METHODS[name](seed=3) if METHODS[name] is Drawing else METHODS[name]()


class OneByOne(JacobianEngine):
    """The plain truth: one backward pass per row, all of the Jacobian at once."""

    def differentiate(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor],
        *,
        jac_outputs: Sequence[Tensor] | None = None,
        retain_graph: bool = False,
    ) -> tuple[Tensor | None, ...]:
        starts = jac_outputs or self.unit_starts(outputs)
        rows = [
            gradients(outputs, inputs, [start[i] for start in starts], retain_graph=True)
            for i in range(len(starts[0]))
        ]
        columns = zip(*rows, strict=True)
        return tuple(self.stacked(c, like) for c, like in zip(columns, inputs, strict=True))


class Odd(nn.Module):
    """Tied weights, a frozen, an unused, a scalar and an empty parameter, and an odd width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen = nn.Linear(5, 7), nn.Linear(7, 7)
        self.frozen.requires_grad_(False)
        self.unused = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.last = nn.Linear(7, 5)
        self.last.weight = nn.Parameter(self.first.weight.detach().T.clone())

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.frozen(self.first(x).tanh()).tanh() * self.scale + self.empty.sum()
        output: Tensor = self.last(hidden) + hidden @ self.first.weight
        return output


def odd_model() -> Odd:
    """The same every time, in float64."""
    torch.manual_seed(0)
    return Odd().double()


def updated(engine: Any, losses: Any, method: Any, **settings: Any) -> Any:
    """The weights, and the Gramian that they are of."""
    gramian = engine.compute_gramian(losses) if "features" not in settings else None
    return SimpleNamespace(weights=engine.backward(losses, method, **settings), gramian=gramian)


def losses_of(model: nn.Module, m: int = 7) -> Tensor:
    """``m`` losses, one per instance."""
    inputs = torch.linspace(-1.0, 1.0, 5 * m, dtype=torch.float64).reshape(m, 5).sin()
    losses: Tensor = model(inputs).square().mean(1)
    return losses


def joined(model: nn.Module) -> Tensor:
    """Every parameter's ``.grad``; NaN stands for none."""
    return torch.cat(
        [
            torch.full_like(p, torch.nan).flatten() if p.grad is None else p.grad.flatten()
            for p in model.parameters()
        ]
    )
