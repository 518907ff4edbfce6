"""The contracts: what a name is, and what a method and an engine must be, structurally.

In: nothing. Out: the four kinds and the protocols, without loading torch. ``methods`` is the file
to read first.
"""

from __future__ import annotations

from jdframework.protocols.engines import Engine
from jdframework.protocols.methods import (
    ActsAfterUpdate,
    Aggregator,
    Configured,
    HasEpochs,
    Method,
    Scalarizer,
    Stateful,
    TakesBatches,
    TreatsGroups,
    Weighting,
)

__all__ = [
    "ActsAfterUpdate",
    "Aggregator",
    "Configured",
    "Engine",
    "HasEpochs",
    "Method",
    "Scalarizer",
    "Stateful",
    "TakesBatches",
    "TreatsGroups",
    "Weighting",
]
