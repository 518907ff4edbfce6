"""Adds the pages that are made of something else than Markdown to the site: see ``tools/pages``.

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

from method_table import described
from pages import benchmarks, commands, directory, method, methods, reliability
from rest_docstrings import with_formulas

from jd_plugin_report.theme import PALETTE

_FETCHED: Final = re.compile(
    r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)"""
)
_CODE: Final = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
_PAGES: Final = (methods, method, directory, benchmarks, commands, reliability)
_COLOURS: Final = "assets/colours.css"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the methods' pages into the navigation, after the table."""
    for entry in config.nav or []:
        if isinstance(entry, dict) and entry.get("Methods") == [methods.PAGE]:
            entry["Methods"] += [{m.name: method.page_of(m.name)} for m in described()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Makes the pages, and what they show."""
    for module in _PAGES:
        for path, text in module.pages().items():
            files.append(File.generated(config, path, content=text))
    for path, source in benchmarks.files().items():
        files.append(File.generated(config, path, abs_src_path=str(source)))
    files.append(File.generated(config, _COLOURS, content=_colours()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Renders ``$…$`` and ``$$…$$`` outside of code, so that no script has to."""
    parts = _CODE.split(markdown)
    return "".join(part if i % 2 else with_formulas(part) for i, part in enumerate(parts))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuses a page that would fetch something from elsewhere when it is read."""
    fetched = _FETCHED.findall(output)
    if fetched:
        raise PluginError(f"{page.file.src_path} would fetch {', '.join(fetched)}")
    return output


def _colours() -> str:
    """The pictures' colours, which follow the site's mode and not the reader's system."""
    light = " ".join(f"{colour.variable}: {colour.light};" for colour in PALETTE.values())
    dark = " ".join(f"{colour.variable}: {colour.dark};" for colour in PALETTE.values())
    return f":root {{ {light} }}\n[data-md-color-scheme=slate] {{ {dark} }}\n"
