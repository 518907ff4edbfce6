from __future__ import annotations

import dataclasses
import json

import pytest

import jdframework as jd
from jdframework.config import Paper
from jdframework.protocols.names import KINDS, NEEDS, Kind, is_canonical

INSTALLED = [(kind, name) for kind in KINDS for name in jd.available(kind)]


@pytest.mark.parametrize(("kind", "name"), INSTALLED)
def test_every_installed_method_is_described(kind: Kind, name: str) -> None:
    method = jd.describe(name, kind)
    assert method.name == name
    assert is_canonical(name)
    assert kind in method.kinds
    assert method.summary.endswith(".")
    assert method.paper is None or isinstance(method.paper, Paper)
    assert method.needs <= NEEDS
    assert isinstance(method.stateful, bool)
    assert isinstance(method.trainable, bool)
    assert method.distribution == f"jd-plugin-{name}"
    assert method.version == jd.__version__
    assert all(is_canonical(alias) for alias in method.aliases)


@pytest.mark.parametrize(("kind", "name"), INSTALLED)
def test_the_schema_is_json_and_describes_each_setting(kind: Kind, name: str) -> None:
    schema = json.loads(json.dumps(jd.describe(name, kind).config_schema))
    assert schema["additionalProperties"] is False
    for field, described in schema.get("properties", {}).items():
        assert described.get("description"), field


@pytest.mark.parametrize(("kind", "name"), INSTALLED)
def test_a_paper_can_be_looked_up(kind: Kind, name: str) -> None:
    paper = jd.describe(name, kind).paper
    if paper is None:
        pytest.skip("a baseline or an engine without a paper")
    assert paper.url.startswith("https://")
    assert 1950 < paper.year < 2100
    assert paper.title
    assert paper.authors
    assert paper.venue


def test_what_the_contract_says_of_needs() -> None:
    assert jd.describe("uw").needs == {"losses"}
    assert jd.describe("upgrad").needs == {"gramian"}
    assert jd.describe("mean", "weighting").needs == frozenset()


def test_state_and_training_are_told() -> None:
    assert (jd.describe("uw").stateful, jd.describe("uw").trainable) == (True, True)
    assert (jd.describe("random").stateful, jd.describe("random").trainable) == (True, False)
    assert (jd.describe("upgrad").stateful, jd.describe("upgrad").trainable) == (False, False)


def test_a_weighting_described_as_an_aggregator_is_the_weighting() -> None:
    assert jd.describe("upgrad", "aggregator") == jd.describe("upgrad")


def test_a_name_of_two_kinds_tells_both() -> None:
    assert jd.describe("mean").kinds == ("weighting", "scalarizer")
    assert jd.describe("mean", "scalarizer").summary == "Takes the mean of the losses."


def test_a_name_of_another_kind_is_refused_with_the_kind_that_has_it() -> None:
    with pytest.raises(jd.UnknownNameError, match="'uw' is a scalarizer, not an engine"):
        jd.describe("uw", "engine")


def test_a_description_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        jd.describe("mean").name = "median"  # type: ignore[misc]
