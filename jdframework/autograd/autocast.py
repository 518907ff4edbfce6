"""Turns autocast off for the length of a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import torch


@contextmanager
def without_autocast() -> Iterator[None]:
    """Turns autocast off in the body: a Gramian rounded to bfloat16 gives other weights.

    Layers that are run again are run as they were the first time, under their own autocast.
    """
    with ExitStack() as stack:
        for kind in _kinds():
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@cache
def _kinds() -> tuple[str, ...]:
    """The kinds of devices here that have an autocast of their own."""
    accelerator = torch.accelerator.current_accelerator()
    kinds = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    return tuple(kind for kind in kinds if torch.amp.is_autocast_available(kind))
