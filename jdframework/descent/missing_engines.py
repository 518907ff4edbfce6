"""Cheaper engines that are published and not installed: which they are, and one warning."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

from jdframework.descent.engine_requirements import required
from jdframework.protocols import Engine
from jdframework.registry import directory, discovery

_told: Final[set[str]] = set()


def missing_engines(engine: Engine, method: Any) -> list[directory.Published]:
    """The published engines that would serve a method for less, and are not installed.

    :param engine: What serves it here.
    :param method: A weighting or an aggregator.
    """
    needed, here = required(method), discovery.catalogue()
    cost = getattr(engine, "cost", 0)
    return [
        known
        for known in directory.published()
        if known["kind"] == "engine"
        and known.get("cost", cost) < cost
        and needed <= set(known.get("capabilities", ()))
        and not here.find("engine", known["name"])
        and not here.find_blocked("engine", known["name"])
    ]


def warn_of_missing(missing: Sequence[directory.Published], taken: str) -> None:
    """Warns once in a program of each missing engine, with the line that installs it.

    :param missing: What :func:`missing_engines` found.
    :param taken: The name of the engine that serves instead.
    """
    for known in missing:
        if known["name"] not in _told:
            _told.add(known["name"])
            warnings.warn(
                f"steps run on {taken}, and the engine {known['name']!r}, which takes a fraction "
                f"of its time where it serves, is not installed: pip install "
                f"{known['distribution']}",
                stacklevel=2,
            )
