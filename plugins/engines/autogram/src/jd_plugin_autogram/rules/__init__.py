"""One rule per layer type: its share of the Gramian, from inputs and output gradients."""

from __future__ import annotations

from jd_plugin_autogram.factors import by_objective
from jd_plugin_autogram.rules.base import Rule, Use
from jd_plugin_autogram.rules.table import rule_for, rules

__all__ = ["Rule", "Use", "by_objective", "rule_for", "rules"]
