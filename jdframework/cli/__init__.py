"""The command line ``jd``.

Each of the kernel's commands is one module here; applications add theirs through the hook
``jd_cli``, and print and complete names with :mod:`.console` and :mod:`.completion`. Neither torch
nor a method is imported before a command uses it.
"""

from __future__ import annotations

import sys
import warnings

__all__ = ["main"]


def main() -> None:
    """Runs ``jd`` on ``sys.argv``.

    A :class:`~jdframework.JDError` becomes one sentence on the standard error stream and exit
    status 1; Ctrl-C becomes exit status 130.

    :raises SystemExit: always, with the exit status.
    """
    from jdframework.cli import app, console
    from jdframework.errors import JDError

    console.never_fail_to_print()
    warnings.showwarning = console.warn
    try:
        app.build()()
    except JDError as error:
        console.complain(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
