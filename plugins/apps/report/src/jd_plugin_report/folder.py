"""The folder that pictures are written to."""

from __future__ import annotations

from pathlib import Path

from jdframework.errors import JDError


def prepare(folder: Path) -> None:
    """Makes the folder, so that a wrong one is known before the work.

    :param folder: Where files are to go.
    :raises JDError: if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JDError(f"the folder {folder} cannot be made: {error.strerror}") from error
