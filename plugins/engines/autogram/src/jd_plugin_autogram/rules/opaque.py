"""Layers that use the parameters of their submodules without calling them."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from jd_plugin_autogram.rules.generic import Generic


class Opaque(Generic):
    """Differentiates the layer as a whole, its submodules included."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.MultiheadAttention,)
    whole: ClassVar[bool] = True
