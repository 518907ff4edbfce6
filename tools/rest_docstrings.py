"""Lets the site show docstrings written in reStructuredText: the site itself is Markdown.

Formulas become MathML, which browsers draw without a script; roles become code; examples become
code blocks. The fields (``:param x:``) are read by mkdocstrings itself.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

from griffe import Extension, Object
from latex2mathml.converter import convert

_BLOCK_FORMULA = re.compile(r"^\.\. math::(?P<formula>.*(?:\n(?:[ ]+.*)?)*)", re.MULTILINE)
_INLINE_FORMULA = re.compile(r":math:`(?P<formula>[^`]+)`")
_DISPLAY = re.compile(r"^\$\$(?P<formula>.+?)\$\$$", re.DOTALL | re.MULTILINE)
_DOLLARS = re.compile(r"(?<!\\)\$(?P<formula>[^\s$](?:(?:[^$\n]|\n(?!\s*\n))*[^\s$])?)\$")
_ROLE = re.compile(r":(?:\w+:)*(?:attr|class|data|exc|func|meth|mod):`~?(?P<target>[^`]+)`")
_EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)
_FIELDS = re.compile(r"^:\w+( \w+)*:.*(?:\n(?!\s*$).*)*", re.MULTILINE)


class RestDocstrings(Extension):
    """The extension that mkdocstrings loads."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrites the docstring of one module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """The docstring ``text`` with its reStructuredText turned into Markdown and MathML."""
    text = _BLOCK_FORMULA.sub(_block, text)
    text = _INLINE_FORMULA.sub(_inline, text)
    text = _ROLE.sub(lambda match: f"`{match['target']}`", text)
    text = _EXAMPLE.sub(lambda match: f"```pycon\n{match[0]}\n```", text)
    return _fields_last(text)


def with_formulas(text: str) -> str:
    """The Markdown ``text`` with ``$$…$$`` and ``$…$`` as MathML.

    >>> "<mi>x</mi>" in with_formulas("With $x$ it costs 5 $ and 6 $.")
    True
    """
    text = _DISPLAY.sub(_displayed, text)
    return _DOLLARS.sub(_inline, text)


def _fields_last(text: str) -> str:
    """An example that follows a field would be shown as part of that field's description."""
    fields = [match[0] for match in _FIELDS.finditer(text)]
    return "\n".join([_FIELDS.sub("", text).rstrip(), "", *fields]) if fields else text


def _block(match: re.Match[str]) -> str:
    return f"{_displayed(match)}\n\n"


def _displayed(match: re.Match[str]) -> str:
    """Within an element that can be scrolled where the formula is wider than the screen."""
    formula = convert(textwrap.dedent(match["formula"]).strip(), display="block")
    return f'<div class="formula">{formula}</div>'


def _inline(match: re.Match[str]) -> str:
    """Markdown would end the paragraph at a line that starts with ``<math``."""
    return f'<span class="formula">{convert(match["formula"])}</span>'
