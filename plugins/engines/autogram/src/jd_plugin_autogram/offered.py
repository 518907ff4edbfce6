"""Rules that installed distributions offer by an entry point."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Iterator
from typing import Any


def offered(group: str, what: str) -> Iterator[Any]:
    """Those of other distributions; one that is broken costs speed, and stops nothing.

    :param group: The entry-point group.
    :param what: What a rule of it is called in a sentence.
    """
    for entry in importlib.metadata.entry_points(group=group):
        try:
            rule = entry.load()()
        except Exception as error:  # noqa: BLE001  # whatever a foreign module raises
            source = entry.value if entry.dist is None else entry.dist.name
            warnings.warn(
                f"the {what} rule {entry.name!r} of {source} cannot be loaded and is left out "
                f"({type(error).__name__}: {error})",
                stacklevel=2,
            )
        else:
            yield rule
