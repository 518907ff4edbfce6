"""What was observed of torchjd and of us, promise by promise, and the tests that show ours."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from method_table import ROOT, markdown_table
from pages.results import Result, results, where

PAGE: Final = "explanation/reliability.md"
BENCHMARKS: Final = frozenset({"peers", "soak"})
"""Whose figures stand on this page."""
_INDEX: Final = ROOT / "tests" / "reliability" / "rows.toml"
_VERDICTS: Final = {True: "kept", False: "**broken**", None: "does not apply"}
_SPECIAL: Final = {ord(character): f"&#{ord(character)};" for character in "\\`*_{}[]<>#|$~&"}

_HEAD: Final = """---
hide: [toc]
---

# Reliability

Thirteen situations that come up in real training, and in which libraries of this kind have gone
wrong. Each was made and run in both libraries, {peer} and ours, by one script, and what it saw it
has put into words itself: nothing in the table is written by hand. Nothing here says that the
authors of the other library were careless, and some of what is counted as broken they document.
Where a promise is kept there, the table says so. Versions change: run it again with

```sh
python benchmarks/peers/reliability.py
```

This table was made on {machine}."""

_SOAK: Final = """## All of it at once

Training with faults that strike at random, beside a run in which the faulty steps are left out and
nothing goes wrong. In the end the parameters, the method's state and the optimizer's state of both
are compared, bit by bit: `python benchmarks/soak.py`."""
_TESTS: Final = """## What was tried, and our tests

Tests below `jdframework/testing` run for every installed method or engine, whoever wrote it. The
list is `tests/reliability/rows.toml`, which a test of its own checks."""


def pages() -> dict[str, str]:
    """The page of the thirteen promises."""
    index = tomllib.loads(_INDEX.read_text("utf-8"))
    found = {result.benchmark: result for result in results()}
    parts = [*_observed(found["peers"], index["rows"]), *_soaked(found["soak"])]
    return {PAGE: "\n\n".join([*parts, *_shown(found["peers"], index)]) + "\n"}


def _observed(result: Result, index: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = result.tables["rows"]
    titles = {row["number"]: row["title"] for row in index}
    peer = rows[0]["peer"]
    lines = [
        (
            str(row["row"]),
            f"**{titles[row['row']]}**: {_plain(row['promise'])}",
            _found(row["theirs"]),
            _found(row["ours"]),
        )
        for row in rows
    ]
    return [
        _HEAD.format(peer=peer, machine=where(result.machine)),
        markdown_table(("", "Promise", f"{peer}, observed", "Ours, observed"), lines),
    ]


def _found(finding: Mapping[str, Any]) -> str:
    return f"{_VERDICTS[finding['kept']]}: {_plain(finding['observed'])}"


def _soaked(result: Result) -> list[str]:
    rows = result.tables["rows"]
    struck = sum((Counter(row["faults"]) for row in rows), Counter[str]())
    lines = [
        (
            f"`{row['method']}`",
            f"`{row['engine']}`",
            str(row["steps"]),
            str(row["updates"]),
            str(sum(row["faults"].values())),
            f"{row['distance']:g}",
        )
        for row in rows
    ]
    heads = ("Method", "Engine", "Steps", "Updates", "Faults", "Greatest difference in the end")
    summary = (
        f"{sum(row['steps'] for row in rows)} steps, {struck.total()} faults "
        f"({', '.join(f'{fault}: {count}' for fault, count in struck.items())}), greatest "
        f"difference in the end: {max(row['distance'] for row in rows):g}"
    )
    return [_SOAK, f"**{summary}.**", markdown_table(heads, lines)]


def _shown(result: Result, index: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    tried = {row["row"]: row["tried"] for row in result.tables["rows"]}
    parts = [_TESTS]
    for row in index["rows"]:
        parts.append(f"### {row['number']}. {row['title']}")
        parts.append(f"*Tried:* {_plain(tried[row['number']])}.")
        parts.append(_tests(row["tests"]))
    for entry in index["all"]:
        parts += [f"### {entry['title']}", _tests(entry["tests"])]
    return parts


def _tests(tests: Sequence[str]) -> str:
    return "\n".join(f"- `{test}`" for test in tests)


def _plain(text: str) -> str:
    """Text of a program, none of whose characters means anything in Markdown."""
    return text.translate(_SPECIAL)
