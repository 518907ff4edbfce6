"""Look-up tables of one row per token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from torch import nn

from jd_plugin_autogram.cost import tokens_are_cheaper
from jd_plugin_autogram.factors import Factors, token_rows
from jd_plugin_autogram.recording import Call
from jd_plugin_autogram.rules.base import Rule, Use


class Embedding(Rule):
    """``y_t = W[token_t]``."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.Embedding,)
    parameters: ClassVar[frozenset[str]] = frozenset({"weight", "bias"})

    def factors(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Factors]:
        """Only the tokens that occur are kept."""
        ids, values = use.input_positions(use.input, 0), use.gradient_positions()
        if use.layer.padding_idx is not None:
            values = values * (ids != use.layer.padding_idx).unsqueeze(-1)
        return [token_rows(p, ids, values) for p in wanted]

    def instance_dims(self, layer: Any, shape: Sequence[int]) -> Iterable[int]:
        """All but the features."""
        return range(len(shape) - 1)

    def saves(self, layer: Any, shape: Sequence[int], k: int) -> bool:
        """Autograd's rows are those of all tokens."""
        return tokens_are_cheaper(k, layer.weight.numel())

    def joins(self, call: Call) -> bool:
        """Tokens are looked up one by one."""
        return True

    def serves(self, call: Call) -> bool:
        """Not where gradients are divided by counts over the whole batch."""
        layer: Any = call.layer
        return not layer.scale_grad_by_freq
