"""Look-up tables whose rows are summed over bags of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from jd_plugin_autogram.cost import tokens_are_cheaper
from jd_plugin_autogram.factors import Factors, scattered
from jd_plugin_autogram.recording import Call
from jd_plugin_autogram.rules.base import Rule, Use


class EmbeddingBag(Rule):
    """``y_b = Σ_t c_t W[token_t]`` over the tokens of each bag."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.EmbeddingBag,)
    parameters: ClassVar[frozenset[str]] = frozenset({"weight", "bias"})

    def factors(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Factors]:
        """Each token has its bag's gradient, times its factor, and belongs to its instance."""
        layout, gradient = use.layout, use.gradient
        ids, bags, factors = _in_bags(use)
        values = gradient[:, bags] * factors.to(gradient).unsqueeze(-1)
        number = torch.arange(gradient.shape[1], device=ids.device)
        owners = torch.empty_like(number)
        owners[layout.split(number).flatten(1)] = torch.arange(
            layout.n, device=ids.device
        ).unsqueeze(1)
        return [scattered(p, ids, owners[bags], layout.n, values) for p in wanted]

    def saves(self, layer: Any, shape: Sequence[int], k: int) -> bool:
        """Autograd's rows are those of all tokens."""
        return tokens_are_cheaper(k, layer.weight.numel())

    def serves(self, call: Call) -> bool:
        """Not the largest entries of a bag, nor counts over the whole batch."""
        layer: Any = call.layer
        return layer.mode in {"sum", "mean"} and not layer.scale_grad_by_freq


def _in_bags(use: Use) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens, the bag that each is in, and the factor of each."""
    given = dict(zip(("input", "offsets", "per_sample_weights"), use.inputs, strict=False))
    given |= use.kwargs
    ids, offsets, factors = (given.get(k) for k in ("input", "offsets", "per_sample_weights"))
    assert isinstance(ids, Tensor)
    if ids.ndim == 2:
        bags = torch.arange(len(ids), device=ids.device).repeat_interleave(ids.shape[1])
    else:
        assert isinstance(offsets, Tensor)
        starts = offsets[:-1] if use.layer.include_last_offset else offsets
        positions = torch.arange(len(ids), device=ids.device)
        bags = torch.searchsorted(starts.contiguous(), positions.to(starts), right=True) - 1
    ids = ids.flatten()
    counted = torch.ones_like(ids, dtype=torch.bool)
    if use.layer.padding_idx is not None:
        counted = ids != use.layer.padding_idx
    factor = counted.to(use.gradient)
    if isinstance(factors, Tensor):
        factor = factor * factors.flatten()
    if use.layer.mode == "mean":
        sizes = torch.bincount(bags[counted], minlength=use.gradient.shape[1])
        factor = factor / sizes[bags].clamp(min=1)
    return ids, bags, factor
