"""The entry-point groups of plugins, and what ``JD_DISABLE_PLUGINS`` leaves of them."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from functools import lru_cache
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


def name_of_class(kind: Kind, cls: type) -> str | None:
    """The canonical name under which an installed distribution offers a class, blocked or not.

    :param kind: What the class is.
    :param cls: The class, which may also be offered from a module that imports it from its own.
    :return: None if no entry point offers it.
    """
    place = f"{cls.__module__}:{cls.__qualname__}"
    for name, value in _offered(kind, path_state()):
        if value == place or _loaded(value) is cls:
            return name
    return None


def path_state() -> tuple[tuple[str, int], ...]:
    """What changes when a distribution is installed: ``sys.path``, or one of its folders."""
    return tuple((entry, _changed_at(entry)) for entry in sys.path)


@lru_cache(maxsize=8)
def _offered(kind: Kind, state: tuple[tuple[str, int], ...]) -> tuple[tuple[str, str], ...]:
    entries = importlib.metadata.entry_points(group=GROUPS[kind])
    return tuple((entry.name, entry.value.replace(" ", "")) for entry in entries)


def _loaded(value: str) -> object:
    """What ``module:Class`` stands for, if that module is imported."""
    module, _, attribute = value.partition(":")
    return getattr(sys.modules.get(module), attribute, None)


def _changed_at(path: str) -> int:
    try:
        return os.stat(path or ".").st_mtime_ns
    except OSError:
        return 0


def _keys_of(entry: importlib.metadata.EntryPoint) -> set[str]:
    return {key(entry.name), key(distribution_of(entry) or "")}
