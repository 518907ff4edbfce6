"""A call of a method that may be tried again: what it drew and remembered is undone first."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch

from jdframework.undoing import StateUndone


class Rewinding:
    """Where the body raises, the method's state and torch's generator are as they were before.

    :param method: The weighting or the aggregator that is called.
    """

    def __init__(self, method: Any) -> None:
        self._state = StateUndone(method)
        self._random = torch.get_rng_state()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._state.__exit__(kind, error, trace)
        if error is not None:
            torch.set_rng_state(self._random)
