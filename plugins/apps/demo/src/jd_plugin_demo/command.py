"""``jd demo``: several methods on real data, a table and a report."""

from __future__ import annotations

import shlex
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from jdframework.cli import completion, console

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jd_plugin_demo.comparison import Comparison, OnProgress
    from jd_plugin_demo.report import Written
    from jd_plugin_demo.training import Setting
    from jd_plugin_report.contestants import Contestant


def demo(
    methods: Annotated[
        str,
        typer.Option(
            help="The methods to compare, separated by commas.",
            autocompletion=completion.method_lists,
        ),
    ] = "sum,uw,mgda,upgrad",
    settings: Annotated[
        str,
        typer.Option(help='Settings by method, as JSON: {"constant": {"weights": [0.7, 0.3]}}.'),
    ] = "{}",
    quick: Annotated[
        bool, typer.Option("--quick", help="Train only a little: less than 30 seconds in all.")
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="How often each method sees all training pictures.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Another seed, other pictures and weights.")
    ] = 0,
    out: Annotated[
        Path, typer.Option(file_okay=False, help="The folder for report.html and the CSV files.")
    ] = Path("report"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Compare methods on overlaid handwritten digits: a table, and a report with pictures.

    Each picture shows two real digits, one over the other, and a small network must read both.
    The same network is trained with each method, from the same weights on the same batches.
    """
    with console.errors().status("Loading torch, the plugins and the scans"):
        from jd_plugin_demo import report
        from jd_plugin_demo.comparison import compare
        from jd_plugin_report.contestants import contestants, settings_by_method
        from jd_plugin_report.folder import prepare

        names = [name.strip() for name in methods.split(",") if name.strip()]
        chosen = contestants(names, settings_by_method(settings))
    prepare(out)
    setting = _setting(quick, epochs, seed)
    with _progress(chosen, setting) as on_progress:
        comparison = compare(chosen, setting, on_progress)
    written = report.write(comparison, out, shlex.join(["jd", *sys.argv[1:]]))
    _show(comparison, written, as_json)


def _setting(quick: bool, epochs: int | None, seed: int) -> Setting:
    from jd_plugin_demo.training import Setting

    chosen: dict[str, Any] = {"seed": seed}
    if quick:
        chosen |= {"epochs": 2, "train_pairs": 6400}
    if epochs is not None:
        chosen["epochs"] = epochs
    return Setting(**chosen)


@contextmanager
def _progress(methods: Sequence[Contestant], setting: Setting) -> Iterator[OnProgress]:
    """One bar per method, where somebody sees it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    errors = console.errors()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bars:
        by_name = {m.name: bars.add_task(m.name, total=setting.steps) for m in methods}

        def on_progress(name: str, steps: int) -> None:
            bars.advance(by_name[name], steps)

        yield on_progress


def _show(comparison: Comparison, written: Written, as_json: bool) -> None:
    from jd_plugin_demo import table

    if as_json:
        console.write_json(
            {
                "setting": asdict(comparison.setting),
                "results": table.rows(comparison.results),
                "files": {what: str(path) for what, path in asdict(written).items()},
            }
        )
        return
    out = console.output()
    out.print(table.terminal_table(comparison.results))
    out.print(Text(table.EXPLANATION, style="dim"))
    out.print(f"\nReport: {written.report}", markup=False, soft_wrap=True)
