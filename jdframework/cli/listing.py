"""``jd list``: what is installed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from jdframework.cli import console, inventory
from jdframework.cli.inventory import Entry
from jdframework.names import Kind


def list_names(
    kind: Annotated[Kind | None, typer.Option(help="Only names of this kind.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the installed methods and engines."""
    found = inventory.entries(kind)
    if as_json:
        console.write_json([asdict(entry) for entry in found])
    elif found:
        console.output().print(_table(found))
    else:
        what = "plugin" if kind is None else kind
        console.output().print(f"No {what} is installed.", markup=False)


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


def _name(entry: Entry) -> Text:
    name = Text(entry.name, style="bold" if entry.status == "ok" else "red")
    if entry.aliases:
        name.append(f" ({', '.join(entry.aliases)})", style="not bold dim")
    return name


def _summary(entry: Entry) -> Text:
    if entry.status == "ok":
        return Text(entry.summary)
    return Text.assemble((f"{entry.status}: ", "red"), entry.reason)
