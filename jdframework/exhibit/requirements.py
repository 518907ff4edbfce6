"""What drawing needs beyond the framework."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Final

from jdframework.errors import JDError

_PACKAGES: Final = {"sklearn": "scikit-learn"}
"""Where the name to install is not the one to import."""


def check(what: str, modules: Sequence[str]) -> None:
    """Refuses to start where a package is missing.

    :param what: What needs them, as in "the demo".
    :param modules: The names to import.
    :raises JDError: naming what is missing and how to install it.
    """
    missing = [_PACKAGES.get(module, module) for module in modules if not _is_there(module)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise JDError(
            f"{what} needs {' and '.join(missing)}, which {verb} not installed: "
            f'pip install "jdframework[demo]"'
        )


def _is_there(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True
