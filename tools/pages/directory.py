"""The directory of published plugins."""

from __future__ import annotations

from typing import Final

from jdframework.registry.directory import published
from method_table import markdown_table

PAGE: Final = "plugins/directory.md"


def pages() -> dict[str, str]:
    """The page of every published plugin."""
    return {PAGE: _directory()}


def _directory() -> str:
    rows = [
        (
            f"`{entry['name']}`" + "".join(f", `{alias}`" for alias in entry["aliases"]),
            entry["kind"],
            entry["summary"],
            f"`pip install {entry['distribution']}`",
        )
        for entry in published()
    ]
    return (
        "---\nhide: [toc]\n---\n\n# Directory\n\n"
        "Every published plugin that this release of the kernel knows of, its own and others'. "
        "[How to get in](publish.md#in-the-directory).\n\n"
        f"{markdown_table(('Name', 'Kind', 'What it does', 'Install'), rows)}\n"
    )
