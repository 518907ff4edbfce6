"""A method's docstring, taken apart for its page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from inspect import cleandoc
from typing import Final

from rest_docstrings import markdown

_FIELDS: Final = re.compile(r"^:\w+( \w+)*:(?!`).*(?:\n(?!\s*$).*)*", re.MULTILINE)
_EXAMPLE: Final = re.compile(r"(?:^>>> .*(?:\n(?!\s*$).*)*\n*)+", re.MULTILINE)
_OTHERS: Final = re.compile(
    r"torchjd|LibMTL|libmoon|blades|[Tt]he authors|official code|other implementations"
    r"|(where|and) others|[Vv]ariants elsewhere|some ports",
    re.IGNORECASE,
)
_SENTENCE: Final = re.compile(r"(?:(?<=[.:])|(?<=\.\)))\s+(?=[A-Z`:]|torchjd|libmoon|blades)")
_LEDGER: Final = re.compile(r"\s*\(E\d+(?: of the ledger)?\)")
"""Numbers in a list that is not part of the site."""
_FORMULA: Final = ".. math::"


@dataclass(frozen=True)
class Docstring:
    """The parts, each in Markdown; the last two may be empty."""

    summary: str
    description: str
    """With the problem as a formula."""
    others: str
    """What it says of other implementations."""
    example: str


def parts(text: str) -> Docstring:
    """Takes a docstring apart.

    A paragraph that speaks of other implementations goes to them. Of one that explains a formula,
    only what follows its first sentences that do not.

    :param text: The docstring, in reStructuredText.
    """
    text = _LEDGER.sub("", _FIELDS.sub("", cleandoc(text)))
    examples = "\n".join(match[0].strip() for match in _EXAMPLE.finditer(text))
    summary, *paragraphs = _paragraphs(_EXAMPLE.sub("", text))
    description, others = [], []
    explains = False
    for paragraph in paragraphs:
        is_formula = paragraph.startswith(_FORMULA)
        ours, theirs = (paragraph, "") if is_formula else _divided(paragraph, explains)
        description += [ours] if ours else []
        others += [theirs] if theirs else []
        explains = is_formula
    return Docstring(
        summary=markdown(summary),
        description=markdown("\n\n".join(description)),
        others=markdown("\n\n".join(others)),
        example=f"```pycon\n{examples}\n```" if examples else "",
    )


def _paragraphs(text: str) -> list[str]:
    """A formula's indented lines belong to its first."""
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def _divided(paragraph: str, explains: bool) -> tuple[str, str]:
    """What stays, and what is said of others."""
    if not _OTHERS.search(paragraph):
        return paragraph, ""
    if not explains:
        return "", paragraph
    sentences = _SENTENCE.split(paragraph)
    first = next(i for i, sentence in enumerate(sentences) if _OTHERS.search(sentence))
    if first == 0:  # then all of it is about both
        return paragraph, ""
    return " ".join(sentences[:first]), " ".join(sentences[first:])
