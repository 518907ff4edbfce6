from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

import jdframework as jd
from jdframework.bases import Aggregator, GramianWeighting, Scalarizer, mistakes
from jdframework.protocols.names import KINDS


class Good(GramianWeighting):
    """As it should be."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian[0]


def test_a_good_class_has_no_mistakes() -> None:
    assert mistakes(Good, "weighting") == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_installed_class_has_no_mistakes(kind: Any) -> None:
    from jdframework.registry import resolve

    for name in jd.available(kind):
        assert mistakes(resolve(kind, name), kind) == []


@pytest.mark.parametrize("thing", [None, 3, "Good", Good(), lambda gramian: gramian])
def test_what_is_no_class_is_named(thing: object) -> None:
    (sentence,) = mistakes(thing, "weighting")
    assert sentence == f"it is {type(thing).__name__} {thing!r}, not a class"


@pytest.mark.parametrize(
    ("kind", "base"),
    [("aggregator", "Aggregator"), ("scalarizer", "Scalarizer"), ("engine", "Engine")],
)
def test_a_class_of_another_base_is_named(kind: Any, base: str) -> None:
    assert mistakes(Good, kind) == [f"Good does not derive from jdframework.bases.{base}"]


@pytest.mark.parametrize("base", [GramianWeighting, Aggregator, Scalarizer])
def test_a_missing_forward_is_named(base: type) -> None:
    unfinished = type("Unfinished", (base,), {})
    assert mistakes(unfinished, base.kind) == ["Unfinished does not define forward"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"Config": dict}, "Odd.Config is no subclass of jdframework.config.Config"),
        ({"Config": None}, "Odd.Config is no subclass of jdframework.config.Config"),
        ({"paper": "arXiv"}, "Odd.paper is no jdframework.config.Paper"),
        (
            {"needs": frozenset({"hessian", "gramian"})},
            "Odd.needs has hessian; known are cross-gramian, gramian, jacobian, losses",
        ),
    ],
)
def test_each_mistake_gets_a_sentence(attributes: dict[str, Any], sentence: str) -> None:
    assert mistakes(type("Odd", (Good,), attributes), "weighting") == [sentence]


def test_all_mistakes_are_told_at_once() -> None:
    odd = type("Odd", (GramianWeighting,), {"Config": dict, "paper": 3})
    assert len(mistakes(odd, "weighting")) == 3
