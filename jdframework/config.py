"""How a method is configured, and how it cites its source."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

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
    """The text as it is printed."""
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


Nested: TypeAlias = float | tuple[Any, ...]
"""A number, or tuples of numbers in tuples."""


def _as_nested(value: object, place: str = "") -> Nested:
    given = _as_floats(value)
    if not isinstance(given, list | tuple):
        return _as_number(given, place)
    inner = tuple(_as_nested(each, f"{place}[{i}]") for i, each in enumerate(given))
    if not inner:
        raise ValueError("it needs at least one number")
    if len({shape_of(each) for each in inner}) > 1:
        raise ValueError("the lists in it must be of one length")
    return inner


def _as_number(given: object, place: str) -> float:
    if isinstance(given, int | float) and abs(given) <= sys.float_info.max:
        return float(given)
    where = f"its entry {place} is {given!r}, where" if place else "there"
    raise ValueError(
        f"{where} must be a finite number: give one per loss, as a list, or as nested lists or a "
        f"tensor of the losses' shape"
    )


PerLoss: TypeAlias = Annotated[
    Nested,
    BeforeValidator(_as_nested),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "number"}},
                {"type": "array", "items": {"type": "array"}},
                {"type": "number"},
            ]
        }
    ),
]
"""A field with one number per loss: a list, in the order of ``losses.flatten()``, or the losses'
own shape, as nested lists, a tensor, or a number for a single loss; it keeps tuples of floats."""


def shape_of(values: Nested) -> tuple[int, ...]:
    """The shape of nested tuples of numbers; ``()`` of a number.

    :param values: Of which those of one depth have one length.

    >>> shape_of(((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)))
    (2, 3)
    """
    return (len(values), *shape_of(values[0])) if isinstance(values, tuple) else ()


def flattened(values: Nested) -> tuple[float, ...]:
    """The numbers in nested tuples, the last dimension first, as ``Tensor.flatten`` orders them.

    :param values: Numbers in tuples, in any depth.

    >>> flattened(((1.0, 2.0), (3.0, 4.0)))
    (1.0, 2.0, 3.0, 4.0)
    """
    if not isinstance(values, tuple):
        return (values,)
    return tuple(number for each in values for number in flattened(each))


def _check_preference(weights: Nested) -> Nested:
    numbers = flattened(weights)
    if min(numbers) < 0 or not 0 < sum(numbers) < math.inf:
        raise ValueError("no weight may be negative, and one must be positive")
    return weights


Preference: TypeAlias = Annotated[PerLoss, AfterValidator(_check_preference)]
"""One number of at least zero per loss, not all of them zero."""


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
        return (
            f"{name} needs the setting {field!r} ({_description(config_class, field).rstrip('.')})"
            f"{_to_write(config_class, name, field)}"
        )
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


def _to_write(config_class: type[Config], name: str, field: str) -> str:
    """The call with the example of the setting; nothing if it has none."""
    known = config_class.model_fields.get(field)
    if known is None or not known.examples:
        return ""
    call = f'jd.Descent(model, "{name}", {field}={as_code(known.examples[0])})'
    return f": write {call}, for instance"


def as_code(value: object) -> str:
    """A setting's value as one writes it.

    :param value: Text, a number, or a list of numbers.

    >>> print(as_code("upgrad"), as_code([0.7, 0.3]))
    "upgrad" [0.7, 0.3]
    """
    return f'"{value}"' if isinstance(value, str) else repr(value)
