"""What was observed of one library in one situation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

VERDICTS: Final = {True: "kept", False: "broken", None: "does not apply"}


@dataclass(frozen=True)
class Finding:
    """Whether a promise was kept, and what was seen, in words that the code has made of it."""

    kept: bool | None
    """None where there is nothing that the promise could be asked of."""
    observed: str


@dataclass(frozen=True)
class Row:
    """One row of the table: the same situation in both libraries."""

    promise: str
    tried: str
    theirs: Finding
    ours: Finding


@dataclass(frozen=True)
class Attempt:
    """What a call gave: a value, or an error."""

    value: Any = None
    error: Exception | None = None
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return said(self.error) if self.error is not None else "no error"


def attempt(call: Callable[..., Any], *given: Any) -> Attempt:
    """Calls, and catches whatever is raised or warned."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            value, error = call(*given), None
        except Exception as raised:  # noqa: BLE001  # what is raised is what is looked for
            value, error = None, raised
    return Attempt(value, error, tuple(str(warning.message) for warning in seen))


def said(error: BaseException, length: int = 260) -> str:
    """The error's class and the beginning of its message, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= length else text[:length] + ' …'}"


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of what is expected."""
    return float((found - expected).norm() / expected.norm())


def counted(bad: Sequence[str], total: int, what: str) -> str:
    """How many of how many, and which."""
    return f"{len(bad)} of {total} {what}" + (f": {listed(bad)}" if bad else "")


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return ", ".join(names) if names else "none"
