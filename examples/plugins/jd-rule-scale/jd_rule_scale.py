"""A layer that scales its features, and the rule by which the engine autogram serves it.

Without a rule autogram looks at the operations inside of the layer, which is right, and a search.
With one it knows at once which two tensors to multiply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from jd_plugin_autogram.rules import Rule, Use, by_objective


class Scale(nn.Module):
    """``y = s ∘ x``, with one factor per feature, the last dimension.

    :param features: How many there are.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., features]`` in, the same out."""
        return x * self.factors


class ScaleRule(Rule):
    """The gradient of the factors is ``Σ_t x ∘ ∂L/∂y``, over the positions of an instance."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (Scale,)
    parameters: ClassVar[frozenset[str]] = frozenset({"factors"})

    def rows(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Tensor]:
        """``[m, features]``: one row per objective.

        :param use: One call of the layer: its inputs, and the objectives' gradients of its output.
        :param wanted: Those of the layer's parameters that rows are needed for.
        """
        products = use.gradient_positions() * use.input_positions(use.input)
        return [by_objective(products.sum(dim=2)) for _ in wanted]
