"""Linearizations: the derivative of several objectives at one point, its wrappers and its users.

In: what an engine found. Out: Gramians, weighted gradients, directions; nothing is written.
``protocol`` is the file to read first, ``update`` the second.
"""

from __future__ import annotations

from jdframework.linearization.blocks import Gradients, split, summed
from jdframework.linearization.protocol import (
    Demand,
    Forecast,
    Linearization,
    RowFunction,
    Wrapped,
)
from jdframework.linearization.rows import JacobianRows

__all__ = [
    "Demand",
    "Forecast",
    "Gradients",
    "JacobianRows",
    "Linearization",
    "RowFunction",
    "Wrapped",
    "split",
    "summed",
]
