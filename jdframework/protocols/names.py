"""The four kinds, and what makes two spellings one name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias, get_args

Kind: TypeAlias = Literal["weighting", "aggregator", "scalarizer", "engine"]
Need: TypeAlias = Literal["gramian", "jacobian", "losses", "cross-gramian"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
NEEDS: Final[frozenset[Need]] = frozenset(get_args(Need))

_IGNORED: Final = re.compile(r"[-_.\s]+")
_CANONICAL: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def key(name: str) -> str:
    """What look-up compares: the name without case and without ``-``, ``_``, ``.`` and blanks.

    >>> key("IMTL_G") == key("imtl-g") == key("imtlg")
    True
    """
    return _IGNORED.sub("", name).lower()


def is_canonical(name: str) -> bool:
    """Whether ``name`` is spelt in kebab-case, as published names are."""
    return _CANONICAL.fullmatch(name) is not None


def nearest(name: str, candidates: Iterable[str], most: int = 3) -> list[str]:
    """The candidates that look most like ``name``, nearest first."""
    by_key = {key(candidate): candidate for candidate in candidates}
    found = difflib.get_close_matches(key(name), by_key, n=most, cutoff=0.6)
    return [by_key[match] for match in found]


def check_kind(kind: str) -> Kind:
    """Returns ``kind`` if it is one of the four, and raises otherwise.

    :raises ValueError: if it is none of them.
    """
    for known in KINDS:
        if kind == known:
            return known
    raise ValueError(f"unknown kind {kind!r}: the kinds are {', '.join(KINDS)}")
