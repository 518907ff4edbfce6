"""The command line, made of what each command says of itself."""

from __future__ import annotations

import re
from typing import Any, Final

import typer
from typer.core import TyperCommand

from jdframework.cli.app import build
from jdframework.cli.applications import applications
from method_table import markdown_table

PAGE: Final = "reference/command-line.md"
_STYLE: Final = re.compile(r"\[/?(?:bold|dim|italic)\]")


def pages() -> dict[str, str]:
    """The page of all commands: the kernel's, then the applications'."""
    group: Any = typer.main.get_command(build())
    sections = [_section(name, command) for name, command in group.commands.items()]
    head = (
        f"# Command line\n\n{group.help}\n\n"
        "The kernel has `jd list`, `jd show`, `jd doctor` and `jd check`. "
        "Every other command comes with an application, which its section names; without it, `jd` "
        "says what to install. [Your own](../plugins/observe.md#a-command-of-your-own)."
    )
    return {PAGE: "\n\n".join([head, *sections]) + "\n"}


def _section(name: str, command: TyperCommand) -> str:
    rows = [_row(parameter) for parameter in command.params]
    usage = " ".join(["[OPTIONS]", *(_place(p) for p in command.params if _is_argument(p))])
    parts = [f"## jd {name}", _text(command.help)]
    parts += [
        f"Comes with `pip install {known['distribution']}`."
        for known in applications()
        if known["command"] == name
    ]
    parts.append(f"```\njd {name} {usage}\n```")
    parts += [markdown_table(("", "Default", "What it does"), rows)] if rows else []
    return "\n\n".join(parts)


def _row(parameter: Any) -> tuple[str, str, str]:
    names = [parameter.name.upper()] if _is_argument(parameter) else parameter.opts
    written = ", ".join(f"`{name}`" for name in names)
    default = parameter.default
    is_said = default not in (None, "", False) and not callable(default)
    given = "required" if parameter.required else f"`{default}`" if is_said else ""
    return written, given, _text(parameter.help)


def _place(argument: Any) -> str:
    several = f"{argument.name.upper()}{'…' if argument.nargs != 1 else ''}"
    return several if argument.required else f"[{several}]"


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _text(text: str | None) -> str:
    return _STYLE.sub("", text or "").replace("\f", "").strip()
