"""The global random number generators, watched and seeded."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_STATES: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.get_rng_state().tolist(),
    "numpy": lambda: [part.tolist() if hasattr(part, "tolist") else part for part in _legacy()],
    "random": random.getstate,
}


def _legacy() -> tuple[Any, ...]:
    return tuple(np.random.get_state())


def states() -> dict[str, Any]:
    """The state of each global generator, by the name of its library."""
    return {library: read() for library, read in _STATES.items()}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All global generators seeded, and put back afterwards.

    :param seed: The seed of each.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
