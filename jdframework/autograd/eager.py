"""A decorator that keeps a step out of ``torch.compile`` and on plain tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")


def eager(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Wraps a function so that neither ``torch.compile`` nor tensor subclasses change what it does.

    ``torch.compile`` of a training loop breaks its graph there instead of tracing the step. What
    subclasses of ``torch.Tensor`` do to torch's functions is off, so that a loss of such a class
    leaves ``.grad``, a method's state and the step's record of plain tensors, as autograd does.

    :param function: Is called with the same arguments.
    """
    untraced: Callable[_P, _R] | None = None

    @wraps(function)
    def entry(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        nonlocal untraced
        # Who compiles has imported it, which takes seconds; nobody else needs it.
        if untraced is None and "torch._dynamo" in sys.modules:
            untraced = torch.compiler.disable(function)
        with torch._C.DisableTorchFunctionSubclass():
            return (function if untraced is None else untraced)(*args, **kwargs)

    marked: Any = entry
    marked._torchdynamo_disable = True
    return entry
