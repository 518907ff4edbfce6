"""Adds the command ``jd steps FILE``: each objective's mean loss and weight in a log of steps.

An observer of ``jd_cli`` is given the command line's typer application, and adds what it likes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from jdframework.hooks import hookimpl


@hookimpl
def jd_cli(app: typer.Typer) -> None:
    """Is called once, when the command line starts."""
    app.command("steps")(steps)


def steps(
    log: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A log of steps.")],
) -> None:
    """Sum up a log of steps: each objective's mean loss and mean weight."""
    lines = log.read_text("utf-8").splitlines()
    events = [event for event in map(json.loads, lines) if event["event"] == "step"]
    taken = [event for event in events if not event["skipped"]]
    if not taken:
        raise typer.BadParameter(f"{log} has no step that was taken")
    typer.echo(f"{len(events)} steps, {len(events) - len(taken)} skipped")
    for position, name in enumerate(taken[0]["names"]):
        loss = sum(event["losses"][position] for event in taken) / len(taken)
        weights = [event["weights"][position] for event in taken if event["weights"]]
        weight = f"{sum(weights) / len(weights):.3f}" if weights else "none"
        typer.echo(f"{name}: mean loss {loss:.4g}, mean weight {weight}")
