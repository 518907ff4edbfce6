"""Turns an out-of-memory error into a value, so that a failed attempt holds no tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import torch

T = TypeVar("T")

_MESSAGES: Final = ("out of memory", "not enough memory", "can't allocate memory")
"""How torch's allocators put it where they raise a plain ``RuntimeError``."""


@dataclass(frozen=True)
class OutOfMemory:
    """An attempt ran out of memory."""

    error: BaseException

    @property
    def reason(self) -> str:
        """The first line of the allocator's message."""
        lines = str(self.error).strip().splitlines() or [type(self.error).__name__]
        return lines[0]


def attempt(run: Callable[[], T]) -> T | OutOfMemory:
    """What ``run`` gives, or that memory ran out; any other exception passes.

    The error is kept without its traceback, whose frames would hold the tensors of the attempt.

    :param run: Is called once.
    """
    try:
        return run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failure = OutOfMemory(error.with_traceback(None))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return failure


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator says that there is no memory left.

    >>> is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    True
    >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _MESSAGES)
