"""Where an aggregator is differentiable, its derivative is torchjd's; elsewhere there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.bases import GramianWeighting, WeightedSum
from jdframework.protocols.names import Kind
from jdframework.testing import derived_suite

KINDS: tuple[Kind, ...] = ("weighting", "aggregator")
METHODS = sorted({name for kind in KINDS for name in jd.available(kind)})
SERVED = ("constant", "krum", "mean", "random", "sum", "trimmed-mean")
WEIGHTS = [1.0, 0.5, 2.0, -1.0, 3.0]


def jacobian() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(5, 7, dtype=torch.float64).requires_grad_()


def derivative(aggregator: Any) -> tuple[Tensor, Tensor]:
    given = jacobian()
    torch.manual_seed(1)
    direction = aggregator(given)
    (found,) = torch.autograd.grad(direction.pow(3).sum(), given)
    return direction.detach(), found


@pytest.mark.parametrize(
    ("name", "config", "theirs", "settings"),
    [
        ("mean", {}, "Mean", {}),
        ("sum", {}, "Sum", {}),
        ("constant", {"weights": WEIGHTS}, "Constant", {"weights": torch.tensor(WEIGHTS).double()}),
        (
            "krum",
            {"n_byzantine": 1, "n_selected": 2, "score": "distance"},
            "Krum",
            {"n_byzantine": 1, "n_selected": 2},
        ),
        ("random", {}, "Random", {}),
        ("trimmed-mean", {"trim_number": 1}, "TrimmedMean", {"trim_number": 1}),
    ],
)
def test_the_derivative_is_that_of_torchjd(
    name: str, config: dict[str, Any], theirs: str, settings: dict[str, Any]
) -> None:
    peer = pytest.importorskip("torchjd.aggregation")
    ours = derivative(jd.aggregator(name, **config))
    expected = derivative(getattr(peer, theirs)(**settings))
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SERVED)
def test_the_derivative_is_right(name: str) -> None:
    config = {"constant": {"weights": WEIGHTS}, "krum": {"n_byzantine": 1}}.get(name, {})
    config = config or {"trimmed-mean": {"trim_number": 1}, "random": {"seed": 0}}.get(name, {})
    aggregator = jd.aggregator(name, **config)

    def direction(given: Tensor) -> Tensor:
        getattr(aggregator, "reset", lambda: None)()
        return aggregator(given)

    assert torch.autograd.gradcheck(direction, (jacobian(),))
    with torch.no_grad():
        assert not direction(jacobian()).requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_whether_its_direction_has_a_graph(name: str) -> None:
    kind: Kind = "aggregator" if name in jd.available("aggregator") else "weighting"
    aggregator: Any = jd.aggregator(name, **derived_suite(kind, name).config)
    extra = {"losses": torch.ones(5)} if "losses" in aggregator.needs else {}
    if isinstance(getattr(aggregator.config, "weights", None), tuple):
        aggregator = jd.aggregator(name, weights=WEIGHTS)
    found = aggregator(jacobian(), **extra)
    assert found.requires_grad == aggregator.differentiable == (name in SERVED)


class _Ones(GramianWeighting):
    differentiable = True

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.new_ones(len(gramian))


class _Lengths(_Ones):
    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.diagonal().sqrt()


class _UnitLength(WeightedSum):
    def forward(self, jacobian: Tensor, /, **extra: Tensor) -> Tensor:
        direction = super().forward(jacobian, **extra)
        return direction / direction.detach().norm()


def test_a_class_that_derives_from_a_differentiable_one_has_no_half_derivative() -> None:
    assert WeightedSum(_Ones())(jacobian()).requires_grad
    for derived in (WeightedSum(_Lengths()), _UnitLength(_Ones())):
        assert not derived(jacobian()).requires_grad


@pytest.mark.parametrize("name", ["mean", "mgda", "trimmed-mean", "upgrad"])
def test_an_update_has_no_graph_where_the_jac_has_one(name: str) -> None:
    parameter = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    parameter.jac = jacobian()  # type: ignore[attr-defined]
    settings = {"trim_number": 1} if name == "trimmed-mean" else {}
    jd.jac_to_grad([parameter], jd.aggregator(name, **settings))
    assert parameter.grad is not None
    assert not parameter.grad.requires_grad
