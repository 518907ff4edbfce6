"""``jd demo``: several methods train one small network on two overlapping handwritten digits.

This module only adds the command, and imports nothing that is slow; ``command`` is the file to read
first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jdframework.hooks import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def jd_cli(app: typer.Typer) -> None:
    """Adds the command."""
    from jd_plugin_demo.command import demo

    app.command("demo")(demo)
