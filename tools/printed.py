"""Writes what a page's blocks print below them: ``python tools/printed.py docs/guides/*.md``.

A block of Python may be followed by a block ``text title="Prints"``. The tests compare it with what
the code prints; this writes it anew, after a page or a message has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
BLOCK: Final = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PRINTED: Final = re.compile(r"\n*^```text title=\"Prints\"\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="tools/printed.py", description=__doc__)
    parser.add_argument("pages", nargs="+", type=Path)
    for page in parser.parse_args(arguments).pages:
        before = page.read_text("utf-8")
        with _elsewhere():
            after = with_outputs(before, str(page))
        if after != before:
            page.write_text(after, "utf-8")
            print(f"wrote {page}")
    return 0


def outputs(
    text: str, page: str, namespace: dict[str, Any]
) -> Iterator[tuple[str, re.Match[str] | None]]:
    """Runs a page's blocks in order, each at its own line numbers.

    :param text: The page.
    :param page: Its name, for tracebacks.
    :param namespace: The names that the blocks find and leave.
    :return: Per block, what it printed, and the text that the page shows for it, if any.
    """
    for block in BLOCK.finditer(text):
        lines_before = text[: block.start(1)].count("\n")
        code = compile("\n" * lines_before + block[1], page, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, namespace)  # noqa: S102  # the repository's own text
        yield printed.getvalue(), PRINTED.match(text, block.end())


def with_outputs(text: str, page: str) -> str:
    """The page with what its blocks print now.

    >>> page = '```python\\nprint(1 + 1)\\n```\\n\\n```text title="Prints"\\n3\\n```\\n'
    >>> print(with_outputs(page, "page.md").splitlines()[5])
    2
    """
    parts, position = [], 0
    for printed, shown in outputs(text, page, {"__name__": "__main__"}):
        if shown:
            parts += [text[position : shown.start(1)], printed]
            position = shown.end(1)
    return "".join([*parts, text[position:]])


@contextlib.contextmanager
def _elsewhere() -> Iterator[None]:
    """In an empty folder, with the example plugins importable, as the tests run pages."""
    before, path = Path.cwd(), list(sys.path)
    sys.path[:0] = [str(example) for example in (ROOT / "examples" / "plugins").glob("*")]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
            sys.path[:] = path


if __name__ == "__main__":
    raise SystemExit(main())
