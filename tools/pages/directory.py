"""The directory of published plugins."""

from __future__ import annotations

from typing import Final

from jdframework.cli.applications import applications
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
        f"{markdown_table(('Name', 'Kind', 'What it does', 'Install'), rows)}\n\n"
        "## Applications\n\n"
        "Commands that a distribution of its own adds to `jd`. All of this repository: "
        '`pip install "jdframework[all]"`; a smaller set that covers most comparisons: '
        '`pip install "jdframework[recommended]"`.\n\n'
        f"{_applications()}\n"
    )


def _applications() -> str:
    rows = [
        (f"`jd {known['command']}`", known["summary"], f"`pip install {known['distribution']}`")
        for known in applications()
    ]
    return markdown_table(("Command", "What it does", "Install"), rows)
