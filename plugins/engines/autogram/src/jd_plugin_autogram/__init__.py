"""The Gramian layer by layer, through hooks, without the Jacobian."""

from __future__ import annotations

from jd_plugin_autogram.engine import Autogram, AutogramConfig

__all__ = ["Autogram", "AutogramConfig"]
