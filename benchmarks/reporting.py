"""What every script here takes, prints and writes; how it measures is ``jd_plugin_bench``."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from jd_plugin_bench.timing import Ratio, Timing, machine

RESULTS: Final = Path(__file__).parent / "results"


def arguments(
    description: str | None, largest: int | None = None, dtypes: Sequence[str] = ()
) -> argparse.Namespace:
    """``--device --quick --out``, which every script takes.

    :param description: What ``--help`` says first.
    :param largest: The default of ``--largest``, for scripts that have it.
    :param dtypes: The choices of ``--dtype``, for scripts that have it; the first is the default.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cpu", help="where to run: cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds")
    parser.add_argument("--out", type=Path, help="the JSON file; by default below results/")
    if largest is not None:
        parser.add_argument("--largest", type=int, default=largest, help="up to which size")
    if dtypes:
        parser.add_argument("--dtype", choices=dtypes, default=dtypes[0], help="of the gradients")
    return parser.parse_args()


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar; call what it gives with what is done next."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)

        def advance(description: str) -> None:
            bar.update(task, description=description)
            bar.advance(task)

        yield advance


def show(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Prints a table whose columns are the keys of the first row."""
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, justify="left" if column == next(iter(rows[0])) else "right")
    for row in rows:
        table.add_row(*row.values())
    Console(width=None if os.isatty(1) else 160).print(table)


def write(name: str, given: argparse.Namespace, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes the figures and where they were measured as JSON.

    :param name: The script's.
    :param given: The script's arguments.
    :param rows: One mapping per line of the table; timings are written out.
    """
    path: Path = given.out or RESULTS / f"{name}-{given.device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [
        {key: asdict(v) if isinstance(v, Timing | Ratio) else v for key, v in row.items()}
        for row in rows
    ]
    content = {"benchmark": name, "machine": machine(given.device), "rows": plain}
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return path
