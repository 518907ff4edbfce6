"""``jd list``: what is installed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Final

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jdframework.cli import console, inventory
from jdframework.cli.inventory import Entry
from jdframework.protocols.names import Kind

_TABLE_WIDTH: Final = 120
"""Below it a table would squeeze the summaries, so that each gets a line of its own."""


def list_names(
    kind: Annotated[Kind | None, typer.Option(help="Only names of this kind.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the installed methods and engines."""
    found = inventory.entries(kind)
    if as_json:
        console.write_json([asdict(entry) for entry in found])
        return
    out = console.output()
    if not found:
        out.print(f"No {kind or 'method'} is installed.")
    elif out.width >= _TABLE_WIDTH:
        out.print(_table(found))
    else:
        out.print(Group(*_lines(found)))


def _table(found: list[Entry]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("name", "kind", "distribution", "version"):
        table.add_column(heading, no_wrap=True)
    table.add_column("summary")
    for entry in found:
        table.add_row(
            _name(entry),
            ", ".join(entry.kinds),
            entry.distribution or "this program",
            entry.version or "",
            _summary(entry),
        )
    return table


def _lines(found: list[Entry]) -> Iterator[RenderableType]:
    for entry in found:
        source = f"{entry.distribution or 'this program'} {entry.version or ''}"
        yield Text.assemble(_name(entry), f"  {', '.join(entry.kinds)}  ", (source, "dim"))
        yield Padding(_summary(entry), (0, 0, 0, 4))


def _name(entry: Entry) -> Text:
    name = Text(entry.name, style="bold" if entry.status == "ok" else "red")
    if entry.aliases:
        name.append(f" ({', '.join(entry.aliases)})", style="not bold dim")
    return name


def _summary(entry: Entry) -> Text:
    if entry.status == "ok":
        return Text(entry.summary)
    return Text.assemble((f"{entry.status}: ", "red"), entry.reason)
