"""How a method is configured, and how it cites its source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from jdframework.errors import ConfigError
from jdframework.protocols.names import nearest


class Config(BaseModel):
    """Base of every method's settings: typed, bounded, frozen, nothing unknown accepted.

    Every number is finite, or JSON could not have it. Every field carries a description;
    ``jd show`` and the documentation print it.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", frozen=True, strict=False, allow_inf_nan=False
    )


class Paper(BaseModel):
    """Where a method was published."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    title: str
    """As printed."""
    authors: str
    """All of them, separated by commas."""
    venue: str
    """Short: ``"NeurIPS"``."""
    year: int
    """Of the venue, not of a preprint."""
    url: str
    """A page that will stay."""


def _as_floats(value: object) -> object:
    """A tensor (or an array) as nested lists; anything else as it is."""
    to_list = getattr(value, "tolist", None)
    return to_list() if callable(to_list) else value


Vector: TypeAlias = Annotated[tuple[float, ...], BeforeValidator(_as_floats)]
"""A field that takes a list of floats or a one-dimensional tensor, and keeps a tuple of floats."""


def _check_preference(weights: tuple[float, ...]) -> tuple[float, ...]:
    if not weights or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise ValueError("no weight may be negative, and one must be positive")
    return weights


Preference: TypeAlias = Annotated[Vector, AfterValidator(_check_preference)]
"""A vector of numbers of at least zero, not all of them zero."""


def _check_solver(name: str) -> str:
    if name != "exact":
        from jdframework.linalg.external_solver import (
            check_installed,  # with NumPy, for those who ask
        )

        check_installed(name)
    return name


Solver: TypeAlias = Annotated[
    str,
    AfterValidator(_check_solver),
    Field(description="'exact' is ours; or the name of any solver that qpsolvers finds installed."),
]
"""A field that names a solver of quadratic programs, which has to be installed."""

Spec: TypeAlias = str | dict[str, Any]
"""A field that names another method: a name, or a mapping ``{"name": …, **config}``."""


def validated(config_class: type[Config], name: str, settings: Mapping[str, object]) -> Config:
    """``config_class(**settings)``, with one sentence per mistake.

    :param name: The method that is being configured, for the message.
    :raises ConfigError: naming the method, the field, what was given and what is allowed.
    """
    try:
        return config_class(**settings)
    except ValidationError as error:
        sentences = [_sentence(config_class, name, detail) for detail in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(sentences))) from None


def _sentence(config_class: type[Config], name: str, detail: Mapping[str, Any]) -> str:
    field = ".".join(str(part) for part in detail["loc"]) or "the settings"
    if detail["type"] == "extra_forbidden":
        return f"{name} has no setting {field!r}: {_allowed_fields(config_class, field)}"
    if detail["type"] == "missing":
        return f"{name} needs the setting {field!r} ({_description(config_class, field)})"
    given = f"{field} = {detail['input']!r} was given"
    reason = detail["msg"].removeprefix("Value error, ")
    return f"{name}: {given}, but {reason[0].lower()}{reason[1:]}"


def _allowed_fields(config_class: type[Config], field: str) -> str:
    allowed = list(config_class.model_fields)
    if not allowed:
        return "it takes none"
    close = nearest(field, allowed, most=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}It takes {', '.join(allowed)}"


def _description(config_class: type[Config], field: str) -> str:
    known = config_class.model_fields.get(field)
    return (known.description if known is not None else None) or "required"
