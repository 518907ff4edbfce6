"""``jd doctor``: whether everything that is installed works."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from jdframework.cli import console

if TYPE_CHECKING:
    from jdframework.cli.checkup import Checkup, Finding

_STYLES: Final = {
    "ok": "green",
    "blocked": "yellow",
    "missing": "yellow",
    "not checked": "yellow",
}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every plugin, the engines' arithmetic, the solvers and the devices.

    The exit status is 1 if a plugin is broken, if two offer one name, or if an engine is wrong.
    """
    from jdframework.cli import checkup

    with console.errors().status("Importing every plugin and checking the engines"):
        found = checkup.examine()
    if as_json:
        console.write_json({"healthy": found.healthy, **asdict(found)})
    else:
        _print(console.output(), found)
    if not found.healthy:
        sys.exit(1)


def _print(out: Console, found: Checkup) -> None:
    out.print(_environment(found.environment))
    for title, findings in (
        ("Plugins", found.plugins),
        ("Observers", found.observers),
        ("Engine self-check: uᵀGu = ‖Jᵀu‖² on a small model", found.engines),
        ("Optional packages", found.optional),
    ):
        if findings:
            out.print(Group(Text(), Text(title, style="bold"), _table(findings)))
    out.print()
    out.print(_verdict(found))


def _environment(environment: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    for label, value in environment.items():
        shown = ", ".join(value) if isinstance(value, list) else str(value)
        table.add_row(label, Text(shown, overflow="fold"))
    return table


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column()
    for finding in findings:
        status = Text(finding.status, style=_STYLES.get(finding.status, "bold red"))
        table.add_row(Text(finding.name), Text(finding.version or ""), status, Text(finding.detail))
    return table


def _verdict(found: Checkup) -> Text:
    wrong = [finding.name for finding in found.wrong()]
    if not wrong:
        return Text("Everything that is installed works.", style="green")
    return Text(f"Not usable: {', '.join(wrong)}.", style="bold red")
