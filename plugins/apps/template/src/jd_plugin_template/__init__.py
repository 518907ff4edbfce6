"""``jd new`` and ``jd update``: a ready plugin from a template, and its later changes.

``template/`` is what ``jd new`` writes: ``files/`` for every kind, and in ``kinds/`` the worked
example of each. :mod:`.library` keeps its releases in a git repository, as copier needs them to see
what has changed between two; :mod:`.plugin` writes and updates a plugin; :mod:`.commands` is what
the command line calls. This module only adds the commands, and imports nothing that is slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jdframework.hooks import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def jd_cli(app: typer.Typer) -> None:
    """Adds the commands."""
    from jd_plugin_template.commands import new, update

    app.command("new")(new)
    app.command("update")(update)
