"""The entry-point groups of plugins, and what ``JD_DISABLE_PLUGINS`` leaves of them."""

from __future__ import annotations

import importlib.metadata
import os
from typing import Final

from jdframework.protocols.names import KINDS, Kind, key

GROUPS: Final[dict[Kind, str]] = {kind: f"jdframework.{kind}s" for kind in KINDS}
ALIAS_GROUPS: Final[dict[Kind, str]] = {kind: f"jdframework.aliases.{kind}s" for kind in KINDS}
HOOK_GROUP: Final = "jdframework.hooks"
DISABLE_VARIABLE: Final = "JD_DISABLE_PLUGINS"


def hook_entry_points() -> list[importlib.metadata.EntryPoint]:
    """The observers on offer by name, less the blocked ones."""
    blocked = blocked_keys(os.environ.get(DISABLE_VARIABLE, ""))
    found = importlib.metadata.entry_points(group=HOOK_GROUP)
    left = (entry for entry in found if not _keys_of(entry) & blocked)
    return sorted(left, key=lambda entry: entry.name)


def blocked_keys(disabled: str) -> frozenset[str]:
    """The keys of the names that a value of ``JD_DISABLE_PLUGINS`` lists.

    :param disabled: The names of methods, engines, observers or distributions, between commas.
    """
    return frozenset(key(name) for name in disabled.split(",") if name.strip())


def distribution_of(entry: importlib.metadata.EntryPoint | None) -> str | None:
    """The name of the distribution that an entry point belongs to, if it belongs to one."""
    dist = getattr(entry, "dist", None)
    return None if dist is None else str(dist.name)


def _keys_of(entry: importlib.metadata.EntryPoint) -> set[str]:
    return {key(entry.name), key(distribution_of(entry) or "")}
