"""The Jacobian's rows for one parameter, factorised where that is cheaper than making them."""

from __future__ import annotations

from jd_plugin_autogram.factors.base import Factors, Rows, accumulated_in, by_objective
from jd_plugin_autogram.factors.combining import combined
from jd_plugin_autogram.factors.product import Bias, Product
from jd_plugin_autogram.factors.slices import SliceFactors
from jd_plugin_autogram.factors.tokens import TokenRows, scattered, token_rows

__all__ = [
    "Bias",
    "Factors",
    "SliceFactors",
    "Product",
    "Rows",
    "TokenRows",
    "accumulated_in",
    "combined",
    "by_objective",
    "scattered",
    "token_rows",
]
