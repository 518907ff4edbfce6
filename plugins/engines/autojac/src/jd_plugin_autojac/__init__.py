"""Jacobians by reverse mode: rows batched with vmap or one by one, whichever is faster here."""

from __future__ import annotations

from jd_plugin_autojac.engine import Autojac, AutojacConfig

__all__ = ["Autojac", "AutojacConfig"]
