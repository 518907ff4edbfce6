"""What the demo needs beyond the framework."""

from __future__ import annotations

import importlib
from typing import Final

from jdframework.errors import JDError

_MODULES: Final = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "jinja2": "jinja2"}


def check() -> None:
    """Refuses to start where a package is missing.

    :raises JDError: naming what is missing and how to install it.
    """
    missing = [package for module, package in _MODULES.items() if not _is_there(module)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise JDError(
            f"the demo needs {' and '.join(missing)}, which {verb} not installed: "
            f'pip install "jdframework[demo]"'
        )


def _is_there(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True
