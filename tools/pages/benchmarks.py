"""The figures that were measured: every file of ``benchmarks/results``, with its picture."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from method_table import ROOT, markdown_table
from pages import reliability
from pages.results import Result, cell, columns, results, where

PAGE: Final = "benchmarks.md"
FILES: Final = "assets/benchmarks/"
_LONG: Final = 12
"""A table of more lines is closed at first."""


def pages() -> dict[str, str]:
    """The page of all benchmarks."""
    here = [result for result in results() if result.benchmark not in reliability.BENCHMARKS]
    return {PAGE: "\n\n".join([_HEAD, *map(_section, here)]) + "\n"}


def files() -> dict[str, Path]:
    """The figures and pictures that the page links to, by their paths below ``docs``."""
    found = [path for result in results() for path in (result.path, result.plot) if path]
    return {FILES + path.name: path for path in found}


_HEAD: Final = """---
hide: [toc]
---

# Benchmarks

Every figure on this page was written by a script of the repository, and none by hand. Machines of
this kind are noisy: the contestants take turns in one process, what is shown is the median, and in
brackets the least and the largest of the rounds. An *ordinary* step is the backward pass of the
mean loss. Where a column says *at most* or *at least*, that was the aim set beforehand, met or not.
What a step costs on your machine, `jd bench` tells."""


def _section(result: Result) -> str:
    script = ROOT / "benchmarks" / f"{result.benchmark}.py"
    parts = [f"## {_title(result)}"]
    parts += [_description(script)] if script.exists() else []
    device = "" if result.device == "cpu" else f" --device {result.device}"
    command = f"`python benchmarks/{script.name}{device}`, " if script.exists() else ""
    parts.append(
        f"{command}{where(result.machine)}. [The figures as JSON]({FILES}{result.path.name})."
    )
    if result.plot is not None:
        parts.append(_picture(result.plot, _title(result)))
    parts += [_table(key, rows) for key, rows in result.tables.items()]
    return "\n\n".join(parts)


def _title(result: Result) -> str:
    name = result.benchmark.replace("_", " ").replace("-", " ")
    return f"{name[0].upper()}{name[1:]} ({result.device.upper()})"


def _description(script: Path) -> str:
    """The script's docstring."""
    text = ast.get_docstring(ast.parse(script.read_text("utf-8"))) or ""
    return text.replace("``", "`")


def _picture(plot: Path, title: str) -> str:
    return (
        f'<p class="plot" tabindex="0" markdown="span">![{title}]({FILES}{plot.name})'
        '{ loading="lazy" }</p>'
    )


def _table(key: str, rows: Sequence[Mapping[str, Any]]) -> str:
    names = columns(rows)
    lines = [[cell(row.get(name)) for name in names] for row in rows]
    table = markdown_table(names, lines)
    if len(rows) <= _LONG:
        return table
    summary = f"{len(rows)} {key}" if key != "rows" else f"All {len(rows)} lines"
    return f'<details markdown="1"><summary>{summary}</summary>\n\n{table}\n\n</details>'
