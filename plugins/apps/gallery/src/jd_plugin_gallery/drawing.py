"""Each method's picture, and the folder of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from jdframework.errors import JDError

from jd_plugin_gallery.courses import Course, course
from jd_plugin_gallery.figures import Courses, picture
from jd_plugin_gallery.problems import PROBLEMS
from jd_plugin_report import theme
from jd_plugin_report.contestants import Contestant
from jd_plugin_report.folder import prepare

OnProgress: TypeAlias = Callable[[str], None]
"""Called with a method's name after each of its courses."""

COURSES: Final = sum(len(problem.starts) for problem in PROBLEMS)
"""How many there are of each method."""


def run(contestant: Contestant, on_progress: OnProgress = lambda name: None) -> Courses:
    """All courses of one method.

    :param contestant: The method.
    :param on_progress: Called after each of its :data:`COURSES`.
    :raises JDError: if a step fails, naming the method.
    """
    found: dict[str, list[Course]] = {problem.name: [] for problem in PROBLEMS}
    for problem in PROBLEMS:
        for start in problem.starts:
            found[problem.name].append(course(contestant, problem, start))
            on_progress(contestant.name)
    return found


def draw(contestant: Contestant, on_progress: OnProgress = lambda name: None) -> str:
    """The picture of one method, as SVG to stand inside a page.

    :param contestant: The method.
    :param on_progress: Called after each of its :data:`COURSES`.
    :raises JDError: if a step fails, naming the method.
    """
    return picture(contestant.name, PROBLEMS, run(contestant, on_progress))


def write(drawn: Sequence[tuple[Contestant, str]], folder: Path, command: str) -> list[Path]:
    """Writes ``NAME.svg`` for each method, and ``index.html`` with all of them.

    :param drawn: The methods and their pictures.
    :param folder: Made if it is not there.
    :param command: The command line, for the page.
    :return: The files, the page last.
    :raises JDError: if one cannot be written.
    """
    prepare(folder)
    files = {f"{contestant.name}.svg": theme.alone(svg) for contestant, svg in drawn}
    files["index.html"] = _page(drawn, command)
    try:
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise JDError(f"the gallery cannot be written to {folder}: {error.strerror}") from error
    return [folder / name for name in files]


def _page(drawn: Sequence[tuple[Contestant, str]], command: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("jd_plugin_gallery"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("index.html")
    return template.render(drawn=drawn, command=command, palette=theme.PALETTE.values())
