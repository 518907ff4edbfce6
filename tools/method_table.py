"""Keeps the table of methods in ``README.md``: ``python tools/method_table.py render|check``.

The table is made of what ``jd.describe`` says. The site's build makes its own from the same
functions, so nothing is written twice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import jdframework as jd
from jdframework.registry.directory import published
from third_party import THIRD_PARTY, third_party

ROOT: Final = Path(__file__).resolve().parent.parent
START: Final = "<!-- methods: rendered by tools/method_table.py -->"
END: Final = "<!-- end of methods -->"


def main(arguments: list[str] | None = None, readme: Path = ROOT / "README.md") -> int:
    """The command; 1 if ``check`` found a difference."""
    parser = argparse.ArgumentParser(prog="tools/method_table.py", description=__doc__)
    parser.add_argument("action", choices=["render", "check"])
    action = parser.parse_args(arguments).action
    before = readme.read_text("utf-8")
    after = with_tables(before)
    if before == after:
        print(f"the table of methods in {readme.name} is up to date")
        return 0
    if action == "check":
        print(f"{readme.name}: its methods are old; run python tools/method_table.py render")
        return 1
    readme.write_text(after, "utf-8")
    print(f"wrote {readme.name}")
    return 0


def with_tables(text: str) -> str:
    """``text`` with new tables between the two markers.

    :raises SystemExit: if a marker is missing.
    """
    head, start, rest = text.partition(START)
    _, end, tail = rest.partition(END)
    if not start or not end:
        sys.exit(f"README.md needs the lines {START!r} and {END!r}")
    tables = f"{method_table(_code)}\n\n{engine_table(_code)}"
    return f"{head}{START}\n\n{tables}\n\n{END}{tail}"


def described() -> list[jd.Method]:
    """Every method and engine of this repository, by name.

    :raises SystemExit: if one is not installed.
    """
    try:
        others = {entry["distribution"] for entry in third_party(ROOT / THIRD_PARTY)}
        names = {entry["name"] for entry in published() if entry["distribution"] not in others}
        return [jd.describe(name) for name in sorted(names)]
    except jd.UnknownNameError as error:
        sys.exit(f"the table needs every plugin installed, but {error}")


def method_table(label: Callable[[str], str]) -> str:
    """The methods as a Markdown table.

    :param label: What stands for a name: code, or a link.
    """
    rows = [
        (
            label(method.name) + _also(method),
            ", ".join(method.kinds),
            method.summary,
            "" if (p := method.paper) is None else f"[{p.venue} {p.year}]({p.url})",
            ", ".join(sorted(method.needs)) or "nothing",
            "learned" if method.trainable else "kept" if method.stateful else "none",
            f"`pip install {method.distribution}`",
        )
        for method in described()
        if "engine" not in method.kinds
    ]
    return markdown_table(
        ("Name", "Kind", "What it does", "Paper", "Needs", "State", "Install"), rows
    )


def engine_table(label: Callable[[str], str]) -> str:
    """The engines as a Markdown table."""
    rows = [
        (label(engine.name), engine.summary, f"`pip install {engine.distribution}`")
        for engine in described()
        if "engine" in engine.kinds
    ]
    return markdown_table(("Engine", "What it does", "Install"), rows)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(markdown_table(("a", "b"), [("1", "x | y")]))
    | a | b |
    | --- | --- |
    | 1 | x \\| y |
    """
    lines = [head, ("---",) * len(head), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _also(method: jd.Method) -> str:
    return f" ({', '.join(map(_code, method.aliases))})" if method.aliases else ""


def _code(name: str) -> str:
    return f"`{name}`"


if __name__ == "__main__":
    raise SystemExit(main())
