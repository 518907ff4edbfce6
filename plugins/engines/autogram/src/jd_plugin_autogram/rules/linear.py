"""Linear layers, over any number of positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from jd_plugin_autogram.pieces import Piece
from jd_plugin_autogram.rules.base import Rule, Use
from jd_plugin_autogram.rules.products import outer_rows, product_pieces, wanted_or_none


class Linear(Rule):
    """``y = x Wᵀ + b`` at every position."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (
        nn.Linear,
        nn.modules.linear.NonDynamicallyQuantizableLinear,
    )

    positionwise: ClassVar[bool] = True

    def pieces(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Piece]:
        """The cheaper of the ghost form and the rows, and the bias."""
        inputs, outputs = _positions(use)
        weight = wanted_or_none(use.layer.weight, wanted)
        return product_pieces(weight, wanted_or_none(use.layer.bias, wanted), inputs, outputs)

    def rows(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Tensor]:
        """``Σ_t B_t A_tᵀ`` and ``Σ_t B_t``."""
        inputs, outputs = _positions(use)
        return [
            outer_rows(p, inputs, outputs) if p is use.layer.weight else outputs.sum(1)
            for p in wanted
        ]


def _positions(use: Use) -> tuple[Tensor, Tensor]:
    inputs: Tensor = use.inputs[0] if use.inputs else use.kwargs["input"]
    gradient, m = use.gradient, len(use.gradient)
    leading = (-1,) if use.shared else (m, -1)
    return inputs.reshape(*leading, inputs.shape[-1]), gradient.reshape(m, -1, gradient.shape[-1])
