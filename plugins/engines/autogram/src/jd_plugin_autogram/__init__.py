"""The Gramian layer by layer, through hooks, without the Jacobian."""

from __future__ import annotations

from jd_plugin_autogram.batch_norm import replace_batch_norm
from jd_plugin_autogram.engine import Autogram, AutogramConfig

__all__ = ["Autogram", "AutogramConfig", "replace_batch_norm"]
