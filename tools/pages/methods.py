"""The table of all methods, which ``docs/assets/methods.js`` lets a reader sort and filter."""

from __future__ import annotations

from html import escape
from typing import Final

import jdframework as jd
from method_table import described, engine_table
from pages.method import page_of, state

PAGE: Final = "methods.md"
_COLUMNS: Final = ("Name", "Kind", "What it does", "Paper", "Year", "Looks at", "State", "Install")


def pages() -> dict[str, str]:
    """The page of all methods."""
    return {
        PAGE: "---\nhide: [toc]\n---\n\n# Methods\n\n"
        "A method *looks at* the Gramian, at the whole Jacobian, or at the values of the losses. "
        "One with *state* keeps something between steps, or learns it; all of it is in its "
        "`state_dict()`. Which one to take: [Choosing a method](guides/choosing-a-method.md).\n\n"
        f"{_table()}\n\n## Engines\n\n{engine_table(_link)}\n"
    }


def _link(name: str) -> str:
    return f"[`{name}`]({page_of(name)})"


def _table() -> str:
    rows = "\n".join(_row(method) for method in described() if "engine" not in method.kinds)
    heads = "".join(f'<th scope="col">{name}</th>' for name in _COLUMNS)
    return (
        '<div class="methods-frame" tabindex="0" role="region" aria-label="Table of methods">'
        f'<table class="methods"><thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>'
        "</div>"
    )


def _row(method: jd.Method) -> str:
    href = page_of(method.name).replace(".md", ".html")
    also = "".join(f" <code>{alias}</code>" for alias in method.aliases)
    paper = method.paper
    cells = (
        f'<a href="{href}"><code>{method.name}</code></a>{also}',
        ", ".join(method.kinds),
        escape(method.summary),
        "" if paper is None else f'<a href="{escape(paper.url)}">{escape(paper.venue)}</a>',
        "" if paper is None else str(paper.year),
        ", ".join(sorted(method.needs)) or "nothing",
        state(method),
        f"<code>pip install {method.distribution}</code>",
    )
    facts = {
        "kind": " ".join(method.kinds),
        "needs": " ".join(sorted(method.needs)) or "nothing",
        "state": state(method),
    }
    data = "".join(f' data-{name}="{value}"' for name, value in facts.items())
    return f"<tr{data}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
