"""``jd gallery``: the path of each method on two small problems, drawn."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jdframework.cli import completion, console
from jdframework.errors import JDError

if TYPE_CHECKING:
    from jd_plugin_gallery.drawing import OnProgress
    from jd_plugin_report.contestants import Contestant

_REMEDY: Final = """give it one, as in --settings '{"cagrad": {"c": 0.5}}'"""


def gallery(
    methods: Annotated[
        str,
        typer.Option(
            help="The methods to draw, separated by commas.",
            autocompletion=completion.method_lists,
        ),
    ] = "mean,mgda,upgrad",
    settings: Annotated[
        str, typer.Option(help='Settings by method, as JSON: {"cagrad": {"c": 0.5}}.')
    ] = "{}",
    out: Annotated[
        Path, typer.Option(file_okay=False, help="The folder for the SVG files and index.html.")
    ] = Path("gallery"),
) -> None:
    """Draw the path that each method takes on two problems with two objectives.

    One problem is all but free of conflict, the other full of it. The pictures show the parameters
    and the values of the objectives, against what is Pareto optimal.
    """
    given = _settings(settings)
    with console.errors().status("Loading torch and the plugins"):
        from jd_plugin_gallery import drawing
        from jd_plugin_report.contestants import contestants
        from jd_plugin_report.folder import prepare

        names = [name.strip() for name in methods.split(",") if name.strip()]
        chosen = contestants(names, given, remedy=_REMEDY)
    prepare(out)
    with _progress(chosen, drawing.COURSES) as on_progress:
        drawn = [(contestant, drawing.draw(contestant, on_progress)) for contestant in chosen]
    written = drawing.write(drawn, out, shlex.join(["jd", *sys.argv[1:]]))
    for path in written:
        console.output().print(str(path), markup=False, soft_wrap=True)


def _settings(text: str) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise JDError(f"--settings is not JSON ({error}): {_REMEDY}") from error
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise JDError(f"--settings is no mapping from method to settings: {_REMEDY}")
    return found


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
