"""Linear layers, over any number of positions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from torch import nn

from jd_plugin_autogram.cost import ghost_is_cheaper
from jd_plugin_autogram.factors import Bias, Factors, Product
from jd_plugin_autogram.recording import Call
from jd_plugin_autogram.rules.base import Rule, Use


class Linear(Rule):
    """``y = x Wᵀ + b`` at every position."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (
        nn.Linear,
        nn.modules.linear.NonDynamicallyQuantizableLinear,
    )
    parameters: ClassVar[frozenset[str]] = frozenset({"weight", "bias"})

    def factors(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Factors]:
        """A product, and for the bias the sum over positions."""
        gradients, layer = use.gradient_positions(), use.layer
        product = None
        factors: list[Factors] = []
        if any(p is layer.weight for p in wanted):
            inputs = use.input_positions(use.input)
            product = Product(layer.weight, inputs, gradients)
            factors.append(product)
        if any(p is layer.bias for p in wanted):
            factors.append(Bias(layer.bias, gradients, product))
        return factors

    def instance_dims(self, layer: Any, shape: Sequence[int]) -> Iterable[int]:
        """All but the features."""
        return range(len(shape) - 1)

    def joins(self, call: Call) -> bool:
        """Where there are positions."""
        return call.tensors[0].ndim > 1

    def saves(self, layer: Any, shape: Sequence[int], k: int) -> bool:
        """Where the Gramian is found without the rows."""
        return ghost_is_cheaper(k, 1, math.prod(shape[:-1]), layer.in_features, layer.out_features)
