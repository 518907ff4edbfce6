"""Settings as people read them."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import pytest
from pydantic import Field

from jdframework.cli.parameters import Parameter, parameters
from jdframework.config import Config, Spec, Vector


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Everything(Config):
    share: float = Field(0.5, gt=0, lt=1, description="A share.")
    count: int | None = Field(None, ge=1, le=9, description="A count.")
    score: Literal["squared", "distance"] = Field("squared", description="A score.")
    only: Literal["one"] = Field("one", description="One value.")
    colour: Colour = Field(Colour.RED, description="A colour.")
    inner: Spec = Field(description="A method.")
    values: Vector | None = Field(None, description="Values.")
    sizes: tuple[int, ...] = Field((1,), min_length=1, max_length=3, description="Sizes.")
    even: int = Field(2, multiple_of=2, description="Even.")
    word: str = Field("a", min_length=1, max_length=5, pattern="^[a-z]+$", description="A word.")
    flag: bool = Field(True, description="A flag.")


@pytest.mark.parametrize(
    ("name", "expected_type", "expected_bounds"),
    [
        ("share", "float", "> 0, < 1"),
        ("count", "int or None", ">= 1, <= 9"),
        ("score", "'squared' or 'distance'", ""),
        ("only", "'one'", ""),
        ("colour", "'red' or 'blue'", ""),
        ("inner", "str or mapping", ""),
        ("values", "list of float or None", ""),
        ("sizes", "list of int", "length >= 1, length <= 3"),
        ("even", "int", "a multiple of 2"),
        ("word", "str", "length >= 1, length <= 5, matches ^[a-z]+$"),
        ("flag", "bool", ""),
    ],
)
def test_type_and_bounds_are_in_plain_words(
    name: str, expected_type: str, expected_bounds: str
) -> None:
    found = {parameter.name: parameter for parameter in parameters(Everything.model_json_schema())}
    assert (found[name].type, found[name].bounds) == (expected_type, expected_bounds)


def test_fields_keep_their_order_defaults_and_descriptions() -> None:
    found = parameters(Everything.model_json_schema())
    assert [parameter.name for parameter in found] == list(Everything.model_fields)
    assert [parameter.name for parameter in found if parameter.required] == ["inner"]
    assert found[0] == Parameter("share", "float", False, 0.5, "> 0, < 1", "A share.")


def test_a_config_without_fields_has_no_parameters() -> None:
    assert parameters(Config.model_json_schema()) == []


def test_the_bounds_of_each_value_are_told_apart_from_those_of_the_list() -> None:
    each = {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 2}
    (found,) = parameters({"properties": {"weights": each}})
    assert found.bounds == "length >= 2, each >= 0"
