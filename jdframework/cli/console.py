"""Where the command line prints: tables on standard output, everything else on standard error."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any, Final, TextIO

from rich.console import Console
from rich.text import Text

__all__ = ["complain", "errors", "output", "save_json", "warn", "write_json"]

_WIDTH_IN_A_PIPE: Final = 160
"""A program or a file that reads a table has no width; wide rows are easier to search."""


def output() -> Console:
    """The console for results; without colours where standard output is no terminal."""
    return _console(sys.stdout)


def errors() -> Console:
    """The console for complaints, warnings and progress."""
    return _console(sys.stderr)


def complain(error: Exception) -> None:
    """Prints what went wrong, in red, one line for each thing.

    :param error: Its text has a line for each.
    """
    for sentence in str(error).splitlines():
        errors().print(Text(f"error: {sentence}", style="red"), soft_wrap=True)


def warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Prints a warning as one sentence; fits ``warnings.showwarning``.

    :param message: The sentence.
    :param category: Not shown, as ``filename``, ``lineno``, ``file`` and ``line`` are not.
    """
    errors().print(Text(f"warning: {message}", style="yellow"), soft_wrap=True)


def write_json(value: Any) -> None:
    """Prints a value for a program to read: pure ASCII, never wrapped.

    :param value: What JSON can hold.
    """
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def save_json(path: Path, value: Any) -> None:
    """Writes a value to a file as JSON.

    :param path: The file, whose folder is made if it is not there.
    :param value: What JSON can hold.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", "utf-8")


def never_fail_to_print() -> None:
    """Lets a stream that cannot encode a character print ``?`` in its place."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _console(stream: TextIO) -> Console:
    free = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(file=stream, highlight=False, width=_WIDTH_IN_A_PIPE if free else None)
