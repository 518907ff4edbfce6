"""``jd gallery``: the path of each method on two small problems, drawn."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jdframework.cli import completion, console

if TYPE_CHECKING:
    from jd_plugin_gallery.drawing import OnProgress
    from jd_plugin_report.contestants import Contestant


def gallery(
    methods: Annotated[
        str,
        typer.Option(
            help="The methods to draw, separated by commas.",
            autocompletion=completion.method_lists,
        ),
    ] = "mean,mgda,upgrad",
    settings: Annotated[
        str, typer.Option(help='Settings by method, as JSON: {"cagrad": {"c": 0.4}}.')
    ] = "{}",
    out: Annotated[
        Path, typer.Option(file_okay=False, help="The folder for the SVG files and index.html.")
    ] = Path("gallery"),
) -> None:
    """Draw the path that each method takes on two problems with two objectives.

    One problem is all but free of conflict, the other full of it. The pictures show the parameters
    and the values of the objectives, against what is Pareto optimal.
    """
    with console.errors().status("Loading torch and the plugins"):
        from jd_plugin_gallery import drawing
        from jd_plugin_report.contestants import contestants, settings_by_method
        from jd_plugin_report.folder import prepare

        names = [name.strip() for name in methods.split(",") if name.strip()]
        chosen = contestants(names, settings_by_method(settings))
    prepare(out)
    with _progress(chosen, drawing.COURSES) as on_progress:
        drawn = [(contestant, drawing.draw(contestant, on_progress)) for contestant in chosen]
    written = drawing.write(drawn, out, shlex.join(["jd", *sys.argv[1:]]))
    for path in written:
        console.output().print(str(path), markup=False, soft_wrap=True)


@contextmanager
def _progress(methods: Sequence[Contestant], courses: int) -> Iterator[OnProgress]:
    """One bar per method, where somebody sees it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    errors = console.errors()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bars:
        by_name = {method.name: bars.add_task(method.name, total=courses) for method in methods}

        def on_progress(name: str) -> None:
            bars.advance(by_name[name])

        yield on_progress
