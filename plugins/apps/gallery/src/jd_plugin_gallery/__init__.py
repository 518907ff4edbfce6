"""``jd gallery``: the path that each method takes on two small problems, drawn.

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
    from jd_plugin_gallery.command import gallery

    app.command("gallery")(gallery)
