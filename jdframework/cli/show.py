"""``jd show``: what one method or engine is, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jdframework.cli import completion, console
from jdframework.cli.parameters import Parameter, parameters
from jdframework.config import as_code
from jdframework.protocols.names import Kind

if TYPE_CHECKING:
    from jdframework.config import Paper
    from jdframework.registry import Method

_EXAMPLE_VALUES_BY_TYPE: Final = {
    "int": "1",
    "float": "1.0",
    "bool": "True",
    "list of float": "[0.3, 0.7]",
}


def show(
    name: Annotated[
        str,
        typer.Argument(help="A method or an engine.", autocompletion=completion.names),
    ],
    kind: Annotated[
        Kind | None, typer.Option(help="Which of the kinds that share the name.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a method is: summary, paper, parameters, where it comes from."""
    from jdframework import registry

    method = registry.describe(name, kind)
    shown = kind or method.kinds[0]
    settings = parameters(method.config_schema)
    if as_json:
        console.write_json(_as_json(method, shown, settings))
    else:
        console.output().print(_page(method, shown, settings))


def example(method: Method, kind: Kind, settings: Sequence[Parameter]) -> str:
    """The lines of a training loop that use ``method``."""
    from jdframework import registry

    cls = registry.resolve(kind, method.name)
    if kind == "engine":
        made = f'descent = jd.Descent(model, "upgrad", engine="{method.name}")'
        return f"{made}\nstep = descent.backward(losses)"
    described = method.config_schema["properties"]
    required = "".join(
        f", {p.name}={_example_value(p, described[p.name])}" for p in settings if p.required
    )
    lines = [f'descent = jd.Descent(model, "{method.name}"{required})']
    if method.trainable:
        lines.append(
            "optimizer.add_param_group({'params': list(descent.parameters()), 'weight_decay': 0.0})"
        )
    lines.append(f"step = descent.backward(losses{_batches(method, cls)})")
    if hasattr(cls, "after_update"):
        lines.append("optimizer.step()")
        lines.append("descent.after_update(losses_now)  # of the same batch")
    if hasattr(cls, "end_epoch"):
        lines.append("descent.end_epoch()  # at the end of each epoch")
    return "\n".join(lines)


def _batches(method: Method, cls: Any) -> str:
    if "cross-gramian" not in method.needs:
        return ""
    two = getattr(cls, "independent_batches", (1,)) == (2,)
    return f", independent={'(second_losses, third_losses)' if two else 'other_losses'}"


def _example_value(parameter: Parameter, described: Mapping[str, Any]) -> str:
    if "examples" in described:
        return as_code(described["examples"][0])
    return _EXAMPLE_VALUES_BY_TYPE.get(parameter.type, "…")


def _as_json(method: Method, kind: Kind, settings: Sequence[Parameter]) -> dict[str, Any]:
    return {
        "name": method.name,
        "kind": kind,
        "kinds": method.kinds,
        "aliases": method.aliases,
        "summary": method.summary,
        "paper": None if method.paper is None else method.paper.model_dump(),
        "needs": sorted(method.needs),
        "stateful": method.stateful,
        "trainable": method.trainable,
        "parameters": [vars(parameter) for parameter in settings],
        "config_schema": method.config_schema,
        "distribution": method.distribution,
        "version": method.version,
        "example": example(method, kind, settings),
    }


def _page(method: Method, kind: Kind, settings: Sequence[Parameter]) -> Group:
    parts: list[RenderableType] = [
        Text.assemble((method.name, "bold"), f"  {kind}"),
        Text(method.summary),
        Text(),
        _facts(method, kind),
        Text(),
        Text("Parameters", style="bold"),
        _indented(_settings_table(settings) if settings else Text("none")),
        Text(),
        Text("Use", style="bold"),
        _indented(Text(example(method, kind, settings), style="cyan")),
    ]
    return Group(*parts)


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2), expand=False)


def _facts(method: Method, kind: Kind) -> Table:
    facts = {
        "Paper": _paper(method.paper),
        "Needs": ", ".join(f"the {need}" for need in sorted(method.needs)) or "nothing",
        "State": _state(method),
        "Aliases": ", ".join(method.aliases) or "none",
        "From": _source(method),
    }
    others = [other for other in method.kinds if other != kind]
    if others:
        commands = ", ".join(f"jd show {method.name} --kind {other}" for other in others)
        facts["Also"] = f"{' and '.join(others)} ({commands})"
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    for label, fact in facts.items():
        table.add_row(label, Text(fact, overflow="fold"))
    return table


def _paper(paper: Paper | None) -> str:
    if paper is None:
        return "none"
    return f"{paper.authors}: {paper.title}. {paper.venue} {paper.year}. {paper.url}"


def _state(method: Method) -> str:
    kept = []
    if method.trainable:
        kept.append("learns values of its own: give descent.parameters() to the optimizer")
    if method.stateful:
        kept.append("reset() puts it back to the start")
    return "; ".join(kept) or "none"


def _source(method: Method) -> str:
    if method.distribution is None:
        return "registered by this program"
    return f"{method.distribution} {method.version}"


def _settings_table(settings: Sequence[Parameter]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("name", "type", "default", "bounds"):
        table.add_column(heading)
    table.add_column("description", ratio=1)
    for parameter in settings:
        default = "required" if parameter.required else repr(parameter.default)
        row = (parameter.name, parameter.type, default, parameter.bounds, parameter.description)
        table.add_row(*(Text(cell) for cell in row))
    return table
