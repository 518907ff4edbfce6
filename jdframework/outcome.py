"""What an engine tells of a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

Check: TypeAlias = Callable[[Tensor], None]
"""Is shown the Gramian before the method is; raises to stop the step."""


@dataclass(frozen=True)
class Outcome:
    """What an engine's step found."""

    weights: Float[Tensor, " m"] | None
    """None for a method that is no weighted sum."""
    gramian: Float[Tensor, "m m"] | None
    """None where the engine did without."""


@dataclass(frozen=True)
class Forecast:
    """What an engine expects of a step, before it takes it."""

    mode: str = ""
    """How it would go about it, as ``"one objective at a time"``; empty if it does not tell."""
    memory: int | None = None
    """How many bytes it would hold on the device at once, beyond an ordinary backward pass; None
    if it cannot tell."""
