"""Puts the commands together, the plugins' own among them."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from jdframework import __version__
from jdframework.cli import applications, check, doctor, listing, show
from jdframework.errors import JDError
from jdframework.protocols.entry_points import hook_entry_points


class Commands(TyperGroup):
    """The commands; one whose application is not installed is answered with what to install."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments begin with.

        :param ctx: click's context.
        :param args: The arguments.
        :raises JDError: if an application that is not there would add it.
        """
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            reason = applications.reason_to_be_missing(args[0])
            if reason is not None:
                raise JDError(reason)
        return super().resolve_command(ctx, args)


def build() -> typer.Typer:
    """The application, with the sub-commands that observers of ``jd_cli`` add."""
    app = typer.Typer(
        name="jd",
        cls=Commands,
        help="Train one PyTorch model on several objectives at once, every method a plugin.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    app.command("list")(listing.list_names)
    app.command("show")(show.show)
    app.command("doctor")(doctor.doctor)
    app.command("check")(check.check)
    _let_observers_add_commands(app)
    return app


def _let_observers_add_commands(app: typer.Typer) -> None:
    """Asks whether there is an observer first: pluggy takes longer to import than ``jd list``."""
    if "jdframework.hooks" in sys.modules or hook_entry_points():
        from jdframework import hooks

        hooks.call("jd_cli", app=app)


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    pass


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jdframework {__version__}")
        raise typer.Exit
