"""A suite for an installed name, whose settings and claims follow from the method's own schema."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import jdframework as jd
from jdframework.protocols.names import Kind
from jdframework.testing.aggregator import AggregatorSuite
from jdframework.testing.engine import EngineSuite
from jdframework.testing.scalarizer import ScalarizerSuite
from jdframework.testing.suite import Suite
from jdframework.testing.weighting import WeightingSuite

_SUITES: Final[dict[Kind, type[Suite]]] = {
    "weighting": WeightingSuite,
    "aggregator": AggregatorSuite,
    "scalarizer": ScalarizerSuite,
    "engine": EngineSuite,
}
_OBJECTIVES: Final = 3


def derived_suite(kind: Kind, name: str, **attributes: Any) -> type[Suite]:
    """The suite of ``kind`` for ``name``, to be run by pytest under a name that begins with Test.

    Required settings get a value that their schema allows. One that has an entry per objective
    (an array, or ``shape``) fixes the number of objectives; a method with such a setting, or with
    a seed, is not asked whether it treats all objectives alike.

    :param kind: What ``name`` is.
    :param name: The name of an installed method or engine.
    :param attributes: Class attributes of the suite that differ: ``config``, claims.
    :raises LookupError: if a required setting has a schema from which no value follows.

    >>> derived_suite("weighting", "constant").config
    {'weights': [0.5, 1.0, 1.5]}
    """
    method = jd.describe(name, kind)
    schema = method.config_schema
    config = attributes.get("config")
    if config is None:
        config = {field: _value(name, field, schema) for field in schema.get("required", ())}
    found: dict[str, Any] = {"spec": method.name, "config": config, "__module__": __name__}
    if "seed" in schema.get("properties", {}) or any(map(_has_entries, config.values())):
        found |= {"permutation_equivariant": False, "permutation_invariant": False}
    sizes = [_objectives(field, value) for field, value in config.items() if _has_entries(value)]
    if sizes:
        found |= {"objectives": (sizes[0],), "shapes": ((sizes[0],), (1, sizes[0]))}
    class_name = "Test" + "".join(part.capitalize() for part in f"{name}-{kind}".split("-"))
    return type(class_name, (_SUITES[kind],), found | attributes)


def _objectives(field: str, value: list[Any]) -> int:
    """How many objectives a setting with one entry for each is for."""
    return math.prod(value) if field == "shape" else len(value)


def _has_entries(value: object) -> bool:
    return isinstance(value, list)


def _value(name: str, field: str, schema: Mapping[str, Any]) -> Any:
    """A value for a required setting."""
    described = schema["properties"][field]
    try:
        return _example(described, schema.get("$defs", {}))
    except LookupError:
        raise LookupError(
            f"{name}: no value for the required setting {field!r} follows from its schema "
            f"{dict(described)}: give config={{{field!r}: …}}"
        ) from None


def _example(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Any:
    """A value that a JSON schema allows.

    :raises LookupError: if the schema is of a form that this does not know.
    """
    if "$ref" in schema:
        return _example(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    for keyword in ("const", "enum", "examples"):
        if keyword in schema:
            found = schema[keyword] if keyword == "const" else schema[keyword][0]
            if not _has_entries(found):  # one for each objective, of which an example may have two
                return found
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], definitions)
    return _EXAMPLES[schema["type"]](schema)


def _integer(schema: Mapping[str, Any]) -> int:
    return int(schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1))


def _number(schema: Mapping[str, Any]) -> float:
    low = float(schema.get("minimum", schema.get("exclusiveMinimum", 0.0)))
    high = float(schema.get("maximum", schema.get("exclusiveMaximum", low + 1.0)))
    return (low + high) / 2


def _array(schema: Mapping[str, Any]) -> list[Any]:
    items = schema.get("items", {})
    if items.get("type") == "integer":
        return [_OBJECTIVES]
    if items.get("type") == "number":
        return [0.5 * (i + 1) for i in range(_OBJECTIVES)]
    raise LookupError(schema)


_EXAMPLES: Final = {
    "array": _array,
    "boolean": lambda _: False,
    "integer": _integer,
    "number": _number,
}
