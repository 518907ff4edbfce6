"""Autocast is off inside a step, whatever surrounds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def without_autocast(device: torch.device) -> Iterator[None]:
    """Turns autocast off in the body: a Gramian rounded to bfloat16 gives other weights.

    Layers that are run again are run as they were the first time, under their own autocast.

    :param device: Where the losses are; that of the CPU is turned off in any case.
    """
    with ExitStack() as stack:
        for kind in {"cpu", device.type}:
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
