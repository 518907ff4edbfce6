"""The type of the setting `memory=`: an amount, or a share of what is free."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from jdframework.autograd.memory import in_bytes


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
