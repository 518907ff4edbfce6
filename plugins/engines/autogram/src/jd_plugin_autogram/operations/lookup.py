"""Rows of a table, chosen by indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from jd_plugin_autogram.factors import Factors, token_rows
from jd_plugin_autogram.layout import Layout
from jd_plugin_autogram.operations.base import Operation, TensorUse, output_shape


class Lookup(Operation):
    """``embedding(indices, table)``, ``table[indices]``, ``table.index_select(0, indices)``."""

    nodes: ClassVar[tuple[str, ...]] = (
        "EmbeddingBackward0",
        "IndexBackward0",
        "IndexSelectBackward0",
    )

    def use(self, node: Any, position: int, shape: Sequence[int]) -> TensorUse | None:
        """The sums of the gradients of equal indices, in each instance."""
        indices = _indices(node)
        if indices is None or len(shape) != 2:
            return None
        padding = getattr(node, "_saved_padding_idx", None)
        count = shape[0]

        def make(target: Tensor, gradient: Tensor, layout: Layout, _: bool) -> Factors:
            values = layout.split(gradient, 1)
            ids = layout.split(indices).reshape(layout.n, -1)
            values = values.reshape(*values.shape[:2], -1, values.shape[-1])
            if padding is not None and padding < count:
                values = values * (ids != padding).unsqueeze(-1)
            return token_rows(target, ids % count, values)

        return TensorUse(tuple(range(len(output_shape(node)) - 1)), make)


def _indices(node: Any) -> Tensor | None:
    """Those of rows; None where something else is chosen."""
    if node.name().startswith("Embedding"):
        return None if node._saved_scale_grad_by_freq else node._saved_indices
    if node.name().startswith("IndexSelect"):
        return node._saved_index if node._saved_dim == 0 else None
    first, *others = node._saved_indices
    is_rows = isinstance(first, Tensor) and first.dtype in (torch.int64, torch.int32)
    return first if is_rows and all(other is None for other in others) else None
