"""One parameter's share of the Gramian, and of the update once the weights are known."""

from __future__ import annotations

from jd_plugin_autogram.pieces.base import Piece, Rows, by_objective
from jd_plugin_autogram.pieces.joining import apart
from jd_plugin_autogram.pieces.placed import Placed
from jd_plugin_autogram.pieces.product import Bias, Product
from jd_plugin_autogram.pieces.tokens import TokenRows

__all__ = [
    "Bias",
    "Piece",
    "Placed",
    "Product",
    "Rows",
    "TokenRows",
    "apart",
    "by_objective",
]
