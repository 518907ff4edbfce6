"""What is wrong with a class that claims to be a method of some kind."""

from __future__ import annotations

from typing import Final

from jdframework.bases.aggregator import Aggregator
from jdframework.bases.engine import Engine
from jdframework.bases.scalarizer import Scalarizer
from jdframework.bases.weighting import Weighting
from jdframework.config import Config, Paper
from jdframework.protocols.names import NEEDS, Kind

_BASES: Final[dict[Kind, type[Weighting | Aggregator | Scalarizer | Engine]]] = {
    "weighting": Weighting,
    "aggregator": Aggregator,
    "scalarizer": Scalarizer,
    "engine": Engine,
}


def mistakes(cls: object, kind: Kind) -> list[str]:
    """One sentence for each thing that keeps ``cls`` from being a usable ``kind``."""
    base = _BASES[kind]
    if not isinstance(cls, type):
        return [f"it is {type(cls).__name__} {cls!r}, not a class"]
    if not issubclass(cls, base):
        return [f"{cls.__name__} does not derive from jdframework.bases.{base.__name__}"]
    found = []
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        found.append(f"{cls.__name__} does not define {', '.join(missing)}")
    if not (isinstance(cls.Config, type) and issubclass(cls.Config, Config)):
        found.append(f"{cls.__name__}.Config is no subclass of jdframework.config.Config")
    if cls.paper is not None and not isinstance(cls.paper, Paper):
        found.append(f"{cls.__name__}.paper is no jdframework.config.Paper")
    unknown = sorted(set(cls.needs) - NEEDS)
    if unknown:
        known = ", ".join(sorted(NEEDS))
        found.append(f"{cls.__name__}.needs has {', '.join(unknown)}; known are {known}")
    return found
