"""How a user writes an amount of memory."""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator

_UNITS: Final = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b", re.IGNORECASE)


def in_bytes(amount: str) -> int:
    """How many bytes a text means.

    :param amount: A number and a unit: B, KB, MB, GB, TB, or KiB, MiB, GiB, TiB.
    :raises ValueError: if it is none.

    >>> in_bytes("4GB"), in_bytes("1.5 MiB")
    (4000000000, 1572864)
    """
    found = _AMOUNT.fullmatch(amount.strip())
    if found is None or found[2].lower() not in _UNITS:
        raise ValueError("an amount is a number and a unit, as '500MB' or '4GB'")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def _checked(memory: str | float | None) -> str | float | None:
    if isinstance(memory, str):
        if not in_bytes(memory):
            raise ValueError("the amount must be positive")
    elif memory is not None and not 0.0 < memory <= 1.0:
        raise ValueError(
            "a number is a share of what is free, above 0 and at most 1; write an amount as '4GB'"
        )
    return memory


Memory: TypeAlias = Annotated[str | float | None, AfterValidator(_checked)]
"""A field that takes an amount (``"500MB"``), a share of what is free (0.25), or None."""
