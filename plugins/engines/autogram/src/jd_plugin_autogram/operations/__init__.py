"""One rule per operation: what a node of the graph does with a tensor that instances share."""

from __future__ import annotations

from jd_plugin_autogram.operations.base import Operation, TensorUse
from jd_plugin_autogram.operations.table import operation_for

__all__ = ["Operation", "TensorUse", "operation_for"]
