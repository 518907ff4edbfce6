"""The plugins that others publish, as the directory lists them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from jdframework.protocols.names import KINDS, is_canonical
from jdframework.registry.directory import Published
from plugin_folder import MetadataError

THIRD_PARTY: Final = Path("plugins", "third-party.toml")


def third_party(path: Path) -> list[Published]:
    """What others publish, from a TOML file with one table for each name.

    :raises MetadataError: naming the entry that cannot be used, and why.
    """
    if not path.exists():
        return []
    try:
        tables = tomllib.loads(path.read_text("utf-8")).get("plugin", [])
    except tomllib.TOMLDecodeError as error:
        raise MetadataError(str(error)) from error
    return [_checked(table, position) for position, table in enumerate(tables, start=1)]


def _checked(table: Mapping[str, Any], position: int) -> Published:
    entry = {"aliases": [], **table}
    where = f"entry {position} ({entry.get('name', 'without a name')})"
    if entry.keys() != Published.__required_keys__:
        wanted = ", ".join(sorted(Published.__required_keys__))
        raise MetadataError(f"{where} needs the keys {wanted}, and no other")
    if entry["kind"] not in KINDS:
        raise MetadataError(f"{where}: the kind is one of {', '.join(KINDS)}")
    for name in (entry["name"], *entry["aliases"]):
        if not is_canonical(name):
            raise MetadataError(f"{where}: {name!r} is not in kebab-case")
    return cast(Published, entry)
