"""``jd bench``: what a step costs on this machine, against an ordinary one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jdframework.cli import completion, console
from jdframework.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jd_plugin_bench.models import Subject
    from jd_plugin_bench.steps import Case, Cost


def bench(
    models: Annotated[
        str, typer.Option(help="Which models, separated by commas; all if not given.")
    ] = "",
    engines: Annotated[
        str, typer.Option(help="Which engines, separated by commas; all installed if not given.")
    ] = "",
    method: Annotated[
        str,
        typer.Option(
            help="The method; the mean needs no time of its own.", autocompletion=completion.names
        ),
    ] = "mean",
    device: Annotated[str, typer.Option(help="Where to run: cpu or cuda.")] = "cpu",
    quick: Annotated[
        bool, typer.Option("--quick", help="The smallest batch of each model, fewer rounds.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="A file for the figures, as JSON.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure what a step with one objective per instance costs here, in ordinary steps.

    An ordinary step is the backward pass of the mean loss. Contestants take turns in one process;
    shown are the median, and the spread between rounds.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or torch's profiler talks: 5 is its own
    with console.errors().status("Loading torch and the engines"):
        from jd_plugin_bench import models as zoo
        from jd_plugin_bench import steps, timing

        subjects = _subjects(models, zoo.SUBJECTS)
        contestants = steps.engines(_engines(engines), method)
        _check_device(device)
    cases = [(s, b) for s in subjects for b in (s.batches[:1] if quick else s.batches)]
    rounds = 5 if quick else 11
    with _progress(len(cases)) as advance:
        found = [
            steps.measure(advance(subject, batch), batch, contestants, device=device, rounds=rounds)
            for subject, batch in cases
        ]
    machine = timing.machine(device)
    figures = {"machine": machine, "method": method, "cases": [asdict(case) for case in found]}
    if out is not None:
        console.save_json(out, figures)
    if as_json:
        console.write_json(figures)
    else:
        _print(console.output(), found, machine)


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",") if name.strip()]


def _subjects(given: str, known: dict[str, Subject]) -> list[Subject]:
    unknown = [name for name in _names(given) if name not in known]
    if unknown:
        raise ConfigError(f"no model is called {unknown[0]!r}: there are {', '.join(known)}")
    return [known[name] for name in _names(given) or known]


def _engines(given: str) -> list[str]:
    from jdframework import registry

    names = _names(given) or registry.available("engine")
    return [registry.describe(name, "engine").name for name in names]


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"device = {device!r} cannot be used here: {reason}") from None


@contextmanager
def _progress(cases: int) -> Iterator[Callable[[Subject, int], Subject]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=console.errors(), transient=True) as bar:
        task = bar.add_task("", total=cases)

        def advance(subject: Subject, batch: int) -> Subject:
            bar.update(task, description=f"{subject.name}, batch {batch}", advance=1)
            return subject

        yield advance


def _print(out: Console, cases: Sequence[Case], machine: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("model", "batch", "plain, ms", "engine", "time", "memory"):
        table.add_column(heading, justify="left" if heading in ("model", "engine") else "right")
    for case in cases:
        head = [case.model, str(case.batch), f"{case.milliseconds:.3g}"]
        for cost in case.costs:
            table.add_row(*head, cost.contestant, *_figures(cost))
            head = ["", "", ""]
    out.print(table)
    out.print(
        Text(
            "time and memory: in ordinary steps, whose backward pass is that of the mean loss; "
            "in brackets the spread between rounds.",
            "bright_black",
        )
    )
    where = f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}"
    out.print(Text(where, "bright_black"))
    for case in cases:
        for cost in case.costs:
            if cost.reason:
                out.print(Text(f"{case.model}: {cost.reason}", "yellow"))


def _figures(cost: Cost) -> tuple[str, str]:
    if cost.time is None or cost.memory is None:
        return "refused", ""
    return str(cost.time), f"{cost.memory:.2f}"
