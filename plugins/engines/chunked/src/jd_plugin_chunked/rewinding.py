"""A call of a method that may be tried again: what it drew and remembered is undone first."""

from __future__ import annotations

from typing import Any

import torch

from jdframework.undoing import StateUndone


class Rewinding(StateUndone):
    """Where the body raises, the method's state and torch's generator are as they were before.

    :param method: The weighting or the aggregator that is called.
    """

    def __init__(self, method: Any) -> None:
        super().__init__(method)
        self._random = torch.get_rng_state()

    def undo(self) -> None:
        """Puts both back."""
        super().undo()
        torch.set_rng_state(self._random)
