"""The results as rows: for the terminal, for JSON and CSV, and for the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypedDict

from rich.table import Table
from rich.text import Text

from jd_plugin_demo.training import Result

_HEADINGS: Final = ("left", "right", "mean", "conflict", "ms per step")

EXPLANATION: Final = (
    "left, right, mean: held-out pictures whose digit was read correctly. "
    "conflict: measured steps at which the two gradients pointed against each other."
)


class Row(TypedDict):
    """One method's results; shares from 0 to 1."""

    method: str
    kind: str
    accuracy_left: float
    accuracy_right: float
    mean_accuracy: float
    conflict: float
    seconds_per_step: float


def rows(results: Sequence[Result]) -> list[Row]:
    """One row per method, in the order of training."""
    return [
        Row(
            method=result.contestant.name,
            kind=result.contestant.kind,
            accuracy_left=result.accuracies[0],
            accuracy_right=result.accuracies[1],
            mean_accuracy=result.mean_accuracy,
            conflict=result.conflict,
            seconds_per_step=result.seconds_per_step,
        )
        for result in results
    ]


def terminal_table(results: Sequence[Result]) -> Table:
    """The table that ``jd demo`` prints."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("method", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for row in rows(results):
        table.add_row(
            Text(row["method"], style="bold"),
            f"{row['accuracy_left']:.1%}",
            f"{row['accuracy_right']:.1%}",
            f"{row['mean_accuracy']:.1%}",
            f"{row['conflict']:.0%}",
            f"{1000 * row['seconds_per_step']:.1f}",
        )
    return table
