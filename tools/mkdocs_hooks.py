"""Adds the pages that are made of the plugins themselves to the site: the table, and each method's.

MkDocs calls the ``on_…`` functions while it builds.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

import jdframework as jd
from jdframework import discovery
from jdframework.cli.parameters import parameters
from jdframework.directory import published
from jdframework.names import Kind
from method_table import described, engine_table, markdown_table, method_table
from rest_docstrings import with_formulas

_FETCHED: Final = re.compile(
    r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)"""
)
TABLE: Final = "methods.md"
DIRECTORY: Final = "plugins/directory.md"
_CODE: Final = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
_ENGINE_OPTIONS: Final = "    options: { show_docstring_parameters: false }"
_METHOD_OPTIONS: Final = "    options: { show_docstring_parameters: false, members: false }"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the methods' pages into the navigation, after the table."""
    for entry in config.nav or []:
        if isinstance(entry, dict) and entry.get("Methods") == [TABLE]:
            entry["Methods"] += [{method.name: _page_of(method.name)} for method in described()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Makes the pages."""
    pages = {TABLE: _overview(), DIRECTORY: _directory()}
    pages |= {_page_of(m.name): _page(m) for m in described()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Renders ``$…$`` and ``$$…$$`` outside of code, so that no script has to."""
    pieces = _CODE.split(markdown)
    return "".join(piece if i % 2 else with_formulas(piece) for i, piece in enumerate(pieces))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuses a page that would fetch something from elsewhere when it is read."""
    fetched = _FETCHED.findall(output)
    if fetched:
        raise PluginError(f"{page.file.src_path} would fetch {', '.join(fetched)}")
    return output


def _page_of(name: str) -> str:
    return f"methods/{name}.md"


def _link(name: str) -> str:
    return f"[`{name}`]({_page_of(name)})"


def _overview() -> str:
    return (
        "---\nhide: [toc]\n---\n\n# Methods\n\n"
        "*Needs* is what a method looks at: the Gramian, the whole Jacobian, or the values of "
        "the losses. A method with *state* keeps something between steps, or learns it; all of "
        "it is in its `state_dict()`.\n\n"
        f"{method_table(_link)}\n\n## Engines\n\n{engine_table(_link)}\n"
    )


def _directory() -> str:
    rows = [
        (
            f"`{entry['name']}`" + "".join(f", `{alias}`" for alias in entry["aliases"]),
            entry["kind"],
            entry["summary"],
            f"`pip install {entry['distribution']}`",
        )
        for entry in published()
    ]
    return (
        "---\nhide: [toc]\n---\n\n# Directory\n\n"
        "Every published plugin that this release of the kernel knows of, its own and others'. "
        "[How to get in](publish.md#in-the-directory).\n\n"
        f"{markdown_table(('Name', 'Kind', 'What it does', 'Install'), rows)}\n"
    )


def _page(method: jd.Method) -> str:
    head = f"# {method.name}\n\n`pip install {method.distribution}`\n\n{_source(method)}"
    return head + "\n".join(_section(method.name, kind) for kind in method.kinds)


def _section(name: str, kind: Kind) -> str:
    (offer,) = discovery.catalogue().find(kind, name)
    settings = parameters(jd.describe(name, kind).config_schema)
    rows = [
        (
            f"`{setting.name}`",
            setting.type + (f", {setting.bounds}" if setting.bounds else ""),
            "required" if setting.required else f"`{setting.default!r}`",
            setting.description,
        )
        for setting in settings
    ]
    table = markdown_table(("Name", "Type", "Default", "Description"), rows) if rows else "None."
    options = _ENGINE_OPTIONS if kind == "engine" else _METHOD_OPTIONS
    return f"::: {offer.value.replace(':', '.')}\n{options}\n\n### Settings\n\n{table}\n"


def _source(method: jd.Method) -> str:
    if method.paper is None:
        return ""
    paper = method.paper
    return f"{paper.authors}, [{paper.title}]({paper.url}), {paper.venue} {paper.year}.\n\n"
