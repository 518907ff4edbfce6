"""``jd bench``: what a step costs on this machine, against an ordinary one.

The repository's ``benchmarks/`` measure with the same ``timing`` and ``live_memory``. This module
only adds the command, and imports nothing that is slow; ``command`` is the file to read first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jdframework.hooks import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def jd_cli(app: typer.Typer) -> None:
    """Adds the command."""
    from jd_plugin_bench.command import bench

    app.command("bench")(bench)
