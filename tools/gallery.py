"""Keeps the methods' pictures in ``docs/assets/gallery``: ``python tools/gallery.py render|check``.

Beside the pictures lies ``courses.json``: some points of every course, and a fingerprint of the
code that draws. ``check`` runs the methods again and compares the points, not the pictures, which
another release of matplotlib would draw with other letters.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch

from plugin_folder import Plugin
from plugin_metadata import ROOT, folders

from jd_plugin_gallery import drawing, figures, problems
from jd_plugin_report import theme
from jd_plugin_report.contestants import Contestant, contestants

PICTURES: Final = ROOT / "docs" / "assets" / "gallery"
_RECORD: Final = "courses.json"
_EVERY: Final = 30
_TOLERANCE: Final = 0.1
"""Of a coordinate: a line's width in the picture. Where a method jumps to and fro at its optimum,
rounding decides on which side it ends."""

Points: TypeAlias = dict[str, list[list[list[float]]]]
"""By problem, some points of each course."""


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 if ``check`` found a difference."""
    parser = argparse.ArgumentParser(prog="tools/gallery.py", description=__doc__)
    parser.add_argument("action", choices=["render", "check"])
    parser.add_argument("names", nargs="*", help="which methods; all if not given")
    given = parser.parse_args(arguments)
    known = {method.name: method for method in drawn_methods()}
    if strangers := set(given.names) - set(known):
        parser.error(f"no method is called {', '.join(sorted(strangers))}")
    chosen = [known[name] for name in given.names or known]
    if given.action == "render":
        _render(chosen, known)
        return 0
    lines = [*stale_files(list(known)), *differences(chosen)]
    print("\n".join(lines) or "the pictures of every method are up to date")
    return 1 if lines else 0


def drawn_methods() -> Iterator[Contestant]:
    """Every method of this repository, with the settings of its README's example."""
    for folder in folders(ROOT):
        plugin = Plugin.read(folder)
        if set(plugin.kinds) - {"engine"}:
            name = next(iter(plugin.names().values()))[0]
            yield from contestants([name], {name: plugin.example})


def stale_files(names: Sequence[str], folder: Path = PICTURES) -> list[str]:
    """One line for each picture that is missing, of no method, or drawn by other code.

    :param names: The methods that there are.
    :param folder: Where the pictures are.
    """
    there = {path.stem for path in folder.glob("*.svg")}
    lines = [f"{name}: has no picture" for name in sorted(set(names) - there)]
    lines += [f"{name}.svg: is the picture of no method" for name in sorted(there - set(names))]
    if _record(folder).get("drawn by") != fingerprint():
        lines.append("the code that draws has changed")
    return [f"{line}; run python tools/gallery.py render" for line in lines]


def differences(methods: Sequence[Contestant], folder: Path = PICTURES) -> list[str]:
    """One line for each method that takes another course than the one drawn.

    :param methods: Those to run.
    :param folder: Where the pictures are.
    """
    recorded = _record(folder).get("courses", {})
    with _processes() as pool:
        found = pool.map(_points, methods)
        return [
            f"{method.name}: takes another course now; run python tools/gallery.py render"
            for method, points in zip(methods, found, strict=True)
            if not _is_close(points, recorded.get(method.name))
        ]


def fingerprint() -> str:
    """What the code that draws is known by."""
    sources = (Path(str(module.__file__)) for module in (theme, figures, problems))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def _render(methods: Sequence[Contestant], known: Mapping[str, Contestant]) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for path in PICTURES.glob("*.svg"):
        if path.stem not in known:
            path.unlink()
    recorded = _record(PICTURES).get("courses", {})
    with _processes() as pool:
        for method, (svg, points) in zip(methods, pool.map(_drawn, methods), strict=True):
            (PICTURES / f"{method.name}.svg").write_text(theme.alone(svg), "utf-8")
            recorded[method.name] = points
            print(f"wrote {method.name}.svg")
    by_name = {name: recorded[name] for name in sorted(recorded) if name in known}
    record = {"drawn by": fingerprint(), "courses": by_name}
    (PICTURES / _RECORD).write_text(_json(record), "utf-8")


def _processes() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,))


def _drawn(method: Contestant) -> tuple[str, Points]:
    found = drawing.run(method)
    return figures.picture(method.name, problems.PROBLEMS, found), _sample(found)


def _points(method: Contestant) -> Points:
    return _sample(drawing.run(method))


def _sample(found: figures.Courses) -> Points:
    return {
        problem: [
            [[round(number, 3) for number in point] for point in one.points[::_EVERY].tolist()]
            for one in several
        ]
        for problem, several in found.items()
    }


def _is_close(points: Points, recorded: Points | None) -> bool:
    if recorded is None or recorded.keys() != points.keys():
        return False
    pairs = [(torch.tensor(points[key]), torch.tensor(recorded[key])) for key in points]
    return all(
        ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=0.05, atol=_TOLERANCE)
        for ours, theirs in pairs
    )


def _record(folder: Path) -> dict[str, Any]:
    path = folder / _RECORD
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def _json(record: Mapping[str, Any]) -> str:
    """One line for each method."""
    lines = [
        f"    {json.dumps(name)}: {json.dumps(points, separators=(',', ':'))}"
        for name, points in record["courses"].items()
    ]
    head = f'{{\n  "drawn by": {json.dumps(record["drawn by"])},\n  "courses": {{\n'
    return head + ",\n".join(lines) + "\n  }\n}\n"


if __name__ == "__main__":
    raise SystemExit(main())
