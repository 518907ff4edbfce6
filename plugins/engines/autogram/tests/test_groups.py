"""A method with groups of parameters gets the Gramian of each, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework import bases

from jd_plugin_autogram import Autogram

from .truth import F64

GROUPS = {
    "each tensor": [[0], [1], [2], [3], [4]],
    "layers": [[0, 1], [2], [3, 4]],
    "across layers": [[4, 0], [1, 2, 3]],
    "all together": [[0, 1, 2, 3, 4]],
}


class Inverse(bases.GramianWeighting):
    """Weights that tell one group's Gramian from another's."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return 1 / gramian.diagonal()


class OwnGroups:
    """A method for each of the given groups of parameters."""

    kind, name, needs = "aggregator", "own-groups", frozenset({"gramian"})

    def __init__(self, groups: Sequence[Sequence[int]], inner: Any = None) -> None:
        self._groups = [(inner or Inverse(), members) for members in groups]

    def bind(self, names: Sequence[str], known: Sequence[str]) -> None:
        """Knows already."""

    def groups(self, blocks: int) -> Sequence[tuple[Any, Sequence[int]]]:
        assert blocks == sum(len(members) for _, members in self._groups)
        return self._groups


class Tied(nn.Module):
    """Uses its first layer twice, and a parameter of its own outside of all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(self.first(x).tanh() * self.scale).tanh())


def losses_of(model: nn.Module, batch_dim: int | None) -> Tensor:
    squares = model(torch.arange(20.0, dtype=F64).reshape(5, 4).cos()).square()
    return squares.sum(1) if batch_dim == 0 else squares.mean(0)


def expected(model: nn.Module, losses: Tensor, groups: Sequence[Sequence[int]]) -> list[Tensor]:
    """By the rows of the Jacobian."""
    parameters = list(model.parameters())
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    blocks = [torch.stack(several) for several in zip(*rows, strict=True)]
    found = [torch.empty(0)] * len(blocks)
    for members in groups:
        lengths = sum(blocks[i].flatten(1).square().sum(1) for i in members)
        for i in members:
            found[i] = torch.tensordot(1 / torch.as_tensor(lengths), blocks[i], dims=1)
    return found


@pytest.mark.parametrize("memory", [0.5, 0.0])
@pytest.mark.parametrize("batch_dim", [None, 0])
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_each_group_is_weighted_by_its_own_gramian(
    groups: Sequence[Sequence[int]], batch_dim: int | None, memory: float
) -> None:
    torch.manual_seed(0)
    model = Tied().to(F64)
    engine = Autogram(model, batch_dim=batch_dim, memory=memory)
    for _ in range(2):
        model.zero_grad()
        losses = losses_of(model, batch_dim)
        wanted = expected(model, losses, groups)
        whole = engine.compute_gramian(losses)
        lin = engine.linearize([losses], groups=groups)
        torch.testing.assert_close(sum(lin.gramians()), whole)
        assert engine.backward(losses_of(model, batch_dim), OwnGroups(groups)) is None
        for parameter, gradient in zip(model.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_a_group_that_no_loss_depends_on_is_left_alone() -> None:
    model, unused = Tied().to(F64), nn.Linear(2, 2).to(F64)
    engine = Autogram(model, unused)
    engine.backward(losses_of(model, None), OwnGroups([[0, 1, 2, 3, 4], [5, 6]]))
    assert unused.weight.grad is None
    assert model.scale.grad is not None


def test_parameters_outside_of_all_groups_are_refused() -> None:
    model, head = Tied().to(F64), nn.Linear(3, 2).to(F64)
    losses = head(model(torch.randn(5, 4, dtype=F64))).square().mean(0)
    with pytest.raises(
        jd.UnsupportedModelError, match=r"'own-groups' is, has no update.*give features=…"
    ):
        Autogram(model).backward(losses, OwnGroups(GROUPS["layers"]))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_heads_past_the_features_get_the_gradient_of_the_sum() -> None:
    model, head = Tied().to(F64), nn.Linear(3, 2).to(F64)
    features = model(torch.arange(20.0, dtype=F64).reshape(5, 4).cos())
    losses = head(features).square().mean(0)
    wanted = expected(model, losses, GROUPS["layers"])
    summed = torch.autograd.grad(losses.sum(), head.weight, retain_graph=True)[0]
    Autogram(model).backward(losses, OwnGroups(GROUPS["layers"]), features=[features])
    torch.testing.assert_close(head.weight.grad, summed)
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_group_that_needs_the_rows_is_refused() -> None:
    class Rows(bases.Aggregator):
        def forward(self, jacobian: Tensor, /) -> Tensor:
            return jacobian.sum(0)

    model = Tied().to(F64)
    with pytest.raises(jd.UnsupportedModelError, match="'rows' needs the Jacobian"):
        Autogram(model).backward(losses_of(model, None), OwnGroups(GROUPS["layers"], Rows()))
