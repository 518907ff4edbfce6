"""Which methods are compared, settled before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jdframework import discovery, registry
from jdframework.demo.model import TASKS
from jdframework.errors import ConfigError, JDError
from jdframework.names import Kind
from jdframework.registry import Method

KINDS: Final[tuple[Kind, ...]] = ("scalarizer", "weighting", "aggregator")
"""The order in which ``jd.Descent`` looks a method's name up."""


@dataclass(frozen=True)
class Contestant:
    """One method with the settings that it trains with."""

    kind: Kind
    settings: Mapping[str, Any]
    method: Method

    @property
    def name(self) -> str:
        """The method's canonical name."""
        return self.method.name


def contestants(names: Sequence[str]) -> list[Contestant]:
    """The methods of these names, each once, in the order given.

    :param names: Names of methods in any spelling.
    :raises JDError: one sentence for each name that cannot be used, all at once.
    """
    found: dict[str, Contestant] = {}
    sentences = []
    for name in names:
        try:
            contestant = _contestant(name)
        except JDError as error:
            sentences.append(str(error))
        else:
            found.setdefault(contestant.name, contestant)
    if sentences:
        raise JDError("\n".join(dict.fromkeys(sentences)))
    if not found:
        raise JDError("no method was given: name at least one, as in --methods sum,upgrad")
    return list(found.values())


def _contestant(name: str) -> Contestant:
    kinds = [kind for kind in KINDS if discovery.catalogue().find(kind, name)]
    if not kinds:
        registry.method(name, prefer=KINDS)  # raises, and says what to do
    method = registry.describe(name, kinds[0])
    settings = {"shape": len(TASKS)} if "shape" in method.config_schema["properties"] else {}
    try:
        registry.method(name, prefer=KINDS, **settings)
    except ConfigError as error:
        raise JDError(f"{error}; the demo runs each method with its defaults") from error
    return Contestant(kinds[0], settings, method)
