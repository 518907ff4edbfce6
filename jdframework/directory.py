"""The published plugins that this release knows of, installed or not.

``directory.json`` beside this file is generated from the plugins' own metadata by
``tools/plugins.py``.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import TypedDict

from jdframework.names import Kind, key


class Published(TypedDict):
    """One name of one published distribution."""

    name: str
    kind: Kind
    distribution: str
    summary: str
    aliases: list[str]


@lru_cache(maxsize=1)
def published() -> tuple[Published, ...]:
    """Every known name."""
    return tuple(json.loads(files("jdframework").joinpath("directory.json").read_text("utf-8")))


def lookup(name: str, kind: Kind | None = None) -> Published | None:
    """The published plugin that ``name`` means, if one is known."""
    for entry in published():
        names = {key(known) for known in (entry["name"], *entry["aliases"])}
        if kind in (None, entry["kind"]) and key(name) in names:
            return entry
    return None
