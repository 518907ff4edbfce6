"""A config's JSON schema as rows that a person reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

_TYPES: Final = {
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "string": "str",
    "null": "None",
    "object": "mapping",
}
_BOUNDS: Final = {
    "exclusiveMinimum": "> {}",
    "minimum": ">= {}",
    "exclusiveMaximum": "< {}",
    "maximum": "<= {}",
    "multipleOf": "a multiple of {}",
    "minItems": "length >= {}",
    "maxItems": "length <= {}",
    "minLength": "length >= {}",
    "maxLength": "length <= {}",
    "pattern": "matches {}",
}


@dataclass(frozen=True)
class Parameter:
    """One setting of a method."""

    name: str
    type: str
    required: bool
    default: Any
    bounds: str
    description: str


def parameters(schema: Mapping[str, Any]) -> list[Parameter]:
    """The settings that a config's JSON schema describes, in their order.

    >>> field = {"type": "number", "minimum": 0, "default": 1.0, "description": "Exponent."}
    >>> parameters({"properties": {"power": field}})
    [Parameter(name='power', type='float', required=False, default=1.0, bounds='>= 0', \
description='Exponent.')]
    """
    definitions = schema.get("$defs", {})
    required = schema.get("required", [])
    return [
        Parameter(
            name=name,
            type=_type(field, definitions),
            required=name in required,
            default=field.get("default"),
            bounds=", ".join(dict.fromkeys(_bounds(field, definitions))),
            description=field.get("description", ""),
        )
        for name, field in schema.get("properties", {}).items()
    ]


def _type(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    field = _resolved(field, definitions)
    if "enum" in field or "const" in field:
        return " or ".join(repr(value) for value in field.get("enum", [field.get("const")]))
    if options := _options(field):
        return " or ".join(dict.fromkeys(_type(option, definitions) for option in options))
    if field.get("type") == "array":
        items = field.get("items")
        return f"list of {_type(items, definitions)}" if items else "list"
    return _TYPES.get(field.get("type", ""), "anything")


def _bounds(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    field = _resolved(field, definitions)
    for keyword, sentence in _BOUNDS.items():
        if keyword in field:
            yield sentence.format(field[keyword])
    for option in _options(field):
        yield from _bounds(option, definitions)
    if isinstance(field.get("items"), Mapping):
        yield from (f"each {bound}" for bound in _bounds(field["items"], definitions))


def _options(field: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*field.get("anyOf", []), *field.get("oneOf", []), *field.get("allOf", [])]


def _resolved(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """The field with the definition that it refers to."""
    name = str(field.get("$ref", "")).rpartition("/")[2]
    return {**definitions.get(name, {}), **field}
