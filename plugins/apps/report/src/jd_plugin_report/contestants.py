"""Which methods are compared, settled before anything is run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jdframework import registry
from jdframework.errors import ConfigError, JDError
from jdframework.protocols.names import Kind, key
from jdframework.registry import Method

KINDS: Final[tuple[Kind, ...]] = ("scalarizer", "weighting", "aggregator")
"""The order in which ``jd.Descent`` looks a method's name up."""


REMEDY: Final = """here, as in --settings '{"constant": {"weights": [0.7, 0.3]}}'"""
"""What to write where a method's settings do not suffice."""


@dataclass(frozen=True)
class Contestant:
    """One method with the settings that it runs with."""

    kind: Kind
    settings: Mapping[str, Any]
    method: Method

    @property
    def name(self) -> str:
        """The method's canonical name."""
        return self.method.name


def contestants(
    names: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    remedy: str = REMEDY,
) -> list[Contestant]:
    """The methods of these names, each once, in the order given.

    :param names: Names of methods in any spelling.
    :param settings: By name in any spelling; what is not there has its default.
    :param remedy: What to say where the settings do not suffice.
    :raises JDError: one sentence for each name that cannot be used, all at once.
    """
    given = {key(name): values for name, values in (settings or {}).items()}
    found: dict[str, Contestant] = {}
    sentences = [
        f"settings are given for {name!r}, which is not among the methods"
        for name in settings or {}
        if key(name) not in set(map(key, names))
    ]
    for name in names:
        try:
            contestant = _contestant(name, given.get(key(name), {}), remedy)
        except JDError as error:
            sentences.append(str(error))
        else:
            found.setdefault(contestant.name, contestant)
    if sentences:
        raise JDError("\n".join(dict.fromkeys(sentences)))
    if not found:
        raise JDError("no method was given: name at least one, as in --methods sum,upgrad")
    return list(found.values())


def settings_by_method(text: str) -> dict[str, dict[str, Any]]:
    """What the option ``--settings`` of an application gives each method.

    :param text: JSON, a mapping from names of methods to mappings.
    :raises JDError: if it is anything else.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise JDError(f"--settings is not JSON ({error}): {REMEDY}") from error
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise JDError(f"--settings is no mapping from method to settings: {REMEDY}")
    return found


def _contestant(name: str, settings: Mapping[str, Any], remedy: str) -> Contestant:
    kinds = [kind for kind in KINDS if kind in registry.kinds_of(name)]
    if not kinds:
        registry.method(name, prefer=KINDS)  # raises, and says what to do
    method = registry.describe(name, kinds[0])
    try:
        registry.method(name, prefer=KINDS, **settings)
    except ConfigError as error:
        raise JDError(f"{error}; {remedy}") from error
    return Contestant(kinds[0], settings, method)
