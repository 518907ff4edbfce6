"""``jd new`` and ``jd update``: a ready plugin, and the template's later changes in it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from jdframework.cli import console
from jdframework.protocols.names import Kind


def new(
    name: Annotated[str, typer.Argument(help="The new name, in kebab-case: soft-min.")],
    kind: Annotated[Kind, typer.Option(help="What it is.")],
    into: Annotated[
        Path, typer.Option(file_okay=False, help="The folder to make the plugin's folder in.")
    ] = Path(),
    summary: Annotated[
        str | None, typer.Option(help="What it does, in one line; yours to change later.")
    ] = None,
    author: Annotated[
        str | None, typer.Option(help="Who writes it; git's user.name if not given.")
    ] = None,
) -> None:
    """Write a ready plugin: a method that works, its tests, and all that a release needs.

    It holds a worked example, in whose place your formula goes. Nothing is ever overwritten.
    """
    from jd_plugin_template import plugin

    target = plugin.create(name, kind, into, summary or f"The {kind} {name}", author)
    out = console.output()
    out.print(Text.assemble("Wrote ", (str(target), "bold"), ":"))
    for path in sorted(path for path in target.rglob("*") if path.is_file()):
        out.print(Text(f"  {path.relative_to(target)}"))
    where = shlex.quote(str(target))
    commands = (
        f"cd {where}",
        "git init && git add --all && git commit --message 'As jd new wrote it'",
        'pip install --editable ".[test]"',
        "pytest",
        f"jd check {name}",
    )
    out.print("\nNext:")
    for command in commands:
        out.print(Text(f"  {command}"), soft_wrap=True)


def update(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="The plugin's folder.")
    ] = Path(),
) -> None:
    """Bring what has changed in jd new's template since into a plugin; your own changes stay."""
    from jd_plugin_template import plugin

    updated = plugin.update(folder)
    out = console.output()
    out.print(Text(f"From the template of jd-plugin-template {updated.before} to {updated.after}."))
    if updated.conflicts:
        out.print(Text("Both you and the template changed these; look for <<<<<<< in them:"))
        for path in updated.conflicts:
            out.print(Text(f"  {path}"))
    else:
        out.print("Look at it with git diff, then commit.")
