"""What is read off an autograd graph."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from jdframework.autograd.graph import graph_of, leaves_of, without
from jdframework.errors import UnsupportedModelError


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return [id(tensor) for tensor in found] == [id(tensor) for tensor in expected]


def test_leaves_are_found_once_each() -> None:
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    assert same(leaves_of([(a * b + a).sum(), a.sum()]), [a, b])


def test_what_requires_no_gradient_is_no_leaf() -> None:
    a, b = torch.ones(2, requires_grad=True), torch.ones(2)
    assert same(leaves_of([(a * b).sum(), b.sum()]), [a])


def test_a_leaf_is_its_own_leaf() -> None:
    a = torch.ones(2, requires_grad=True)
    assert same(leaves_of([a]), [a])


def test_the_order_does_not_change_between_runs() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    names = {id(p): name for name, p in model.named_parameters()}
    found = {tuple(names[id(p)] for p in leaves_of([model(torch.ones(1, 2))])) for _ in range(5)}
    assert len(found) == 1
    assert len(next(iter(found))) == 4


def test_the_walk_stops_at_the_features_but_not_at_what_goes_around_them() -> None:
    trunk, mixed, head = (torch.ones(2, requires_grad=True) for _ in range(3))
    features = trunk * mixed
    assert same(leaves_of([(features * head).sum()], stop_at=[features]), [head])
    assert same(leaves_of([(features * head * mixed).sum()], stop_at=[features]), [head, mixed])


def test_one_output_of_an_operation_does_not_hide_the_others() -> None:
    trunk = torch.ones(4, requires_grad=True)
    left, right = (trunk * 2).split(2)
    assert same(leaves_of([left.sum()], stop_at=[left]), [])
    assert same(leaves_of([left.sum() + right.sum()], stop_at=[left]), [trunk])


def test_it_tells_what_is_reached() -> None:
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    hidden = a * 2
    graph = graph_of([hidden.sum()])
    assert graph.reaches(a)
    assert graph.reaches(hidden)
    assert not graph.reaches(b)
    assert not graph.reaches(torch.ones(2))


def test_operations_are_named() -> None:
    a = torch.ones(2, 2, requires_grad=True)
    assert "MmBackward0" in graph_of([a @ a]).operations


def test_checkpointing_without_reentry_hides_nothing() -> None:
    layer = nn.Linear(2, 2)
    output = checkpoint(layer, torch.ones(1, 2), use_reentrant=False)
    assert {id(p) for p in leaves_of([output])} == {id(p) for p in layer.parameters()}


def test_checkpointing_with_reentry_is_refused() -> None:
    output = checkpoint(nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True), use_reentrant=True)
    with pytest.raises(UnsupportedModelError, match="use_reentrant=False"):
        leaves_of([output])


def test_a_deep_graph_needs_no_deep_stack() -> None:
    a = torch.ones(1, requires_grad=True)
    value = a
    for _ in range(20_000):
        value = value * 1.0
    assert same(leaves_of([value]), [a])


def test_tensors_are_compared_by_identity() -> None:
    a, b = torch.ones(2), torch.ones(2)
    assert same(without([a, b], [a]), [b])
