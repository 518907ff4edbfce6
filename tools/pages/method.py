"""A page for each method and engine: what it says of itself, what it costs, where it leads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from html import escape
from importlib import import_module
from inspect import getdoc
from typing import Any, Final

import jdframework as jd
from jdframework.cli.parameters import parameters
from jdframework.cli.show import example
from jdframework.errors import UnknownNameError
from jdframework.protocols.names import Kind
from jdframework.registry import discovery
from method_table import ROOT, described, markdown_table
from pages.docstring import Docstring, parts
from pages.results import results
from plugin_folder import Plugin
from plugin_metadata import folders

PICTURES: Final = ROOT / "docs" / "assets" / "gallery"
_STYLE: Final = re.compile(r"<style>.*?</style>", re.DOTALL)
_ENGINE_OPTIONS: Final = (
    "    options: { show_docstring_parameters: false, show_docstring_description: false, "
    "heading_level: 3 }"
)
_METHOD_OPTIONS: Final = (
    "    options: { show_docstring_parameters: false, show_docstring_description: false, "
    "members: false, heading_level: 3 }"
)
NEEDS: Final = {
    "gramian": "the Gramian",
    "jacobian": "the whole Jacobian",
    "losses": "the values of the losses",
    "cross-gramian": "the Gramian of two batches",
}


def pages() -> dict[str, str]:
    """The page of each."""
    return {page_of(method.name): _page(method) for method in described()}


def page_of(name: str) -> str:
    """The path of its page below ``docs``."""
    return f"methods/{name}.md"


def needs(method: jd.Method) -> str:
    """What it looks at, in words."""
    return ", ".join(NEEDS[need] for need in sorted(method.needs)) or "nothing"


def state(method: jd.Method) -> str:
    """What it keeps between steps: ``none``, ``kept`` or ``learned``."""
    return "learned" if method.trainable else "kept" if method.stateful else "none"


def _page(method: jd.Method) -> str:
    texts = {kind: parts(getdoc(_class(method.name, kind)) or "") for kind in method.kinds}
    first = texts[method.kinds[0]]
    sections = [f"# {method.name}", first.summary, _facts(method)]
    if "engine" in method.kinds:
        sections += ["## What it does", *_problems(texts), "## Settings", _settings(method)]
    else:
        sections += ["## The problem", *_problems(texts), "## Use", _use(method)]
        sections += ["## Settings", _settings(method), "## Where it leads", _picture(method.name)]
        others = "\n\n".join(text.others for text in texts.values() if text.others)
        sections += ["## Other implementations", others] if others else []
        sections += _costs(method.name)
    sections += ["## Class", *_classes(method, texts)]
    return "\n\n".join(filter(None, sections)) + "\n"


def _class(name: str, kind: Kind) -> Any:
    (offer,) = discovery.catalogue().find(kind, name)
    module, _, attribute = offer.value.partition(":")
    return getattr(import_module(module), attribute)


def _facts(method: jd.Method) -> str:
    rows = {"Kind": ", ".join(method.kinds)}
    if "engine" not in method.kinds:
        rows["Looks at"] = needs(method)
        rows["State"] = {
            "none": "none",
            "kept": "kept between steps, and part of <code>state_dict()</code>",
            "learned": "learned: give <code>descent.parameters()</code> to the optimizer",
        }[state(method)]
    if method.aliases:
        rows["Other names"] = ", ".join(f"<code>{alias}</code>" for alias in method.aliases)
    if method.paper is not None:
        rows["Paper"] = _paper(method.paper)
    rows["Plugin"] = f"{method.distribution} {method.version}"
    rows["Install"] = f"<code>pip install {method.distribution}</code>"
    lines = "".join(f'<tr><th scope="row">{k}</th><td>{v}</td></tr>' for k, v in rows.items())
    return f'<table class="facts"><tbody>{lines}</tbody></table>'


def _paper(paper: Any) -> str:
    title = f'<a href="{escape(paper.url)}">{escape(paper.title)}</a>'
    return f"{escape(paper.authors)}: {title}. {escape(paper.venue)} {paper.year}."


def _problems(texts: dict[Kind, Docstring]) -> Iterator[str]:
    for kind, text in texts.items():
        if len(texts) > 1:
            yield f"### As {'an' if kind[0] in 'aeiou' else 'a'} {kind}\n\n{text.summary}"
        yield text.description


def _use(method: jd.Method) -> str:
    settings = parameters(method.config_schema)
    return f"```python\n{example(method, method.kinds[0], settings)}\n```"


def _settings(method: jd.Method) -> str:
    tables = dict.fromkeys(_settings_table(method.name, kind) for kind in method.kinds)
    return "\n\n".join(tables)


def _settings_table(name: str, kind: Kind) -> str:
    rows = [
        (
            f"`{setting.name}`",
            setting.type + (f", {setting.bounds}" if setting.bounds else ""),
            "required" if setting.required else f"`{setting.default!r}`",
            setting.description,
        )
        for setting in parameters(jd.describe(name, kind).config_schema)
    ]
    return markdown_table(("Name", "Type", "Default", "Description"), rows) if rows else "None."


def _picture(name: str) -> str:
    drawn = _STYLE.sub("", (PICTURES / f"{name}.svg").read_text("utf-8"))
    one_line = re.sub(r"\s*\n\s*", " ", drawn)
    given = {key: value for key, value in _example_settings()[name].items() if key != "shape"}
    settings = f" --settings '{json.dumps({name: given})}'" if given else ""
    return (
        f'<figure class="courses">{one_line}</figure>\n\n'
        "Above, the element-wise quadratic $f(x) = (x_1^2,\\, x_2^2)$, whose objectives never "
        "conflict and whose only Pareto optimal point is the origin. Below, two convex quadratic "
        "forms $f_i(x) = \\tfrac{1}{2} (x - u_i)^\\top A_i (x - u_i)$, which conflict. Each colour "
        "is one start, in the space of the parameters and in that of the values. Every method has "
        "the same starts, steps and learning rates. To draw it yourself:\n\n"
        f"```\njd gallery --methods {name}{settings}\n```"
    )


@cache
def _example_settings() -> dict[str, Any]:
    read = [Plugin.read(folder) for folder in folders(ROOT)]
    return {name: p.example for p in read for names in p.names().values() for name in names}


def _costs(name: str) -> list[str]:
    """What its weights cost for a number of objectives, where that was measured."""
    sections = []
    for result in results():
        rows = [row for row in result.tables.get("rows", ()) if _is_of(row, name)]
        for variant in dict.fromkeys(row["method"] for row in rows):
            chosen = [row for row in rows if row["method"] == variant]
            sections.append(f"{variant}, on {result.device.upper()}:\n\n{_cost_table(chosen)}")
    if not sections:
        return []
    head = (
        "The time that the weights of a Gramian take, in milliseconds; in brackets how many times "
        "as long torchjd's take. How it was measured, and on which machine: "
        "[Benchmarks](../benchmarks.md)."
    )
    return ["## Cost", head, *sections]


def _is_of(row: Any, name: str) -> bool:
    if "method" not in row or "ours" not in row:
        return False
    try:
        return jd.describe(row["method"].partition(",")[0]).name == name
    except UnknownNameError:
        return False


def _cost_table(rows: list[Any]) -> str:
    kinds = list(dict.fromkeys(row["J"] for row in rows))
    by_place = {(row["m"], row["J"]): row for row in rows}
    lines = [
        (str(m), *(_cost(by_place.get((m, kind))) for kind in kinds))
        for m in sorted({row["m"] for row in rows})
    ]
    return markdown_table(("Objectives", *(f"{kind} conflict" for kind in kinds)), lines)


def _cost(row: Any) -> str:
    if row is None:
        return ""
    ratio = row["times as fast"]  # null where torchjd was not waited for
    ours = f"{1e3 * row['ours']['median']:.3g}"
    return f"{ours} ({ratio['median']:.3g})" if ratio else ours


def _classes(method: jd.Method, texts: dict[Kind, Docstring]) -> Iterator[str]:
    for kind, text in texts.items():
        yield _reference(method.name, kind)
        yield text.example


def _reference(name: str, kind: Kind) -> str:
    (offer,) = discovery.catalogue().find(kind, name)
    options = _ENGINE_OPTIONS if kind == "engine" else _METHOD_OPTIONS
    return f"::: {offer.value.replace(':', '.')}\n{options}"
