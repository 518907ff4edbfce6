"""Small problems are solved on one thread.

NumPy's and SciPy's linear algebra each have threads of their own beside torch's. Up to a few
hundred rows there is little to share out, and where there are fewer cores than threads (torch, a
data loader or another process is at work) those that have finished spin until the others get a
turn: a problem of 128 rows then takes a hundred milliseconds and more in the place of one.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Final

_FEWEST: Final = 17
"""Below this size nothing is shared out."""
_MOST: Final = 256
"""From here on, the work is worth more than the waiting."""


def calm(size: int) -> AbstractContextManager[object]:
    """Within it, linear algebra on the host runs on one thread, if that suits the size.

    :param size: How many rows the problem has.
    """
    return one_thread() if _FEWEST <= size <= _MOST else nullcontext()


class OneThread:
    """Limits NumPy's and SciPy's threads while anyone is inside, however many that are.

    The limit is the process's. The last one out lifts it, so that solvers that run in several
    threads at once do not take each other's limit for the original number.
    """

    def __init__(self) -> None:
        import scipy.linalg.lapack  # noqa: F401  # loads what is looked for below
        from threadpoolctl import ThreadpoolController

        self._libraries: Any = ThreadpoolController().select(user_api="blas")
        self._lock = threading.Lock()
        self._inside = 0
        self._limits: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._limits = self._libraries.limit(limits=1)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._limits.restore_original_limits()


@cache
def one_thread() -> OneThread:
    """The limit itself, for what is shared out at any size, as LAPACK's Jacobi methods are.

    It takes 19 µs.
    """
    return OneThread()
