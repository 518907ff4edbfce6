"""Look-up tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jd_plugin_autogram.pieces import Piece, TokenRows, by_objective
from jd_plugin_autogram.recording import Call
from jd_plugin_autogram.rules.base import Rule, Use


class Embedding(Rule):
    """``y_t = W[token_t]``."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.Embedding,)
    parameters: ClassVar[frozenset[str]] = frozenset({"weight", "bias"})

    def pieces(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Piece]:
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
        return True

    def serves(self, call: Call) -> bool:
        """Not where gradients are divided by counts over the whole batch."""
        layer: Any = call.layer
        return not layer.scale_grad_by_freq


class EmbeddingBag(Rule):
    """``y_b = Σ_t c_t W[token_t]`` over the tokens of each bag."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.EmbeddingBag,)
    parameters: ClassVar[frozenset[str]] = frozenset({"weight", "bias"})

    def pieces(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Piece]:
        """Each token has its bag's gradient, times its factor, and belongs to its instance."""
        layout, gradient = use.layout, use.gradient
        ids, bags, factors = _in_bags(use)
        values = gradient[:, bags] * factors.to(gradient).unsqueeze(-1)
        number = torch.arange(gradient.shape[1], device=ids.device)
        owners = torch.empty_like(number)
        owners[layout.split(number).flatten(1)] = torch.arange(
            layout.n, device=ids.device
        ).unsqueeze(1)
        return [_scattered(p, ids, owners[bags], layout.n, values) for p in wanted]

    def saves(self, layer: Any, shape: Sequence[int], k: int) -> bool:
        """Autograd's rows are those of all tokens."""
        return True

    def serves(self, call: Call) -> bool:
        """Not the largest entries of a bag, nor counts over the whole batch."""
        layer: Any = call.layer
        return layer.mode in {"sum", "mean"} and not layer.scale_grad_by_freq


def token_rows(
    parameter: Tensor, ids: Int[Tensor, "n T"], values: Float[Tensor, "k n T d"]
) -> TokenRows:
    """Sums the values of equal tokens of one instance.

    :param parameter: The table.
    :param ids: The token at each position.
    :param values: The gradient at each position.
    """
    n, length = ids.shape
    owners = torch.arange(n, device=ids.device).repeat_interleave(length)
    return _scattered(parameter, ids.flatten(), owners, n, values.flatten(1, 2))


def _scattered(
    parameter: Tensor,
    ids: Int[Tensor, " N"],
    owners: Int[Tensor, " N"],
    n: int,
    values: Float[Tensor, "k N d"],
) -> TokenRows:
    tokens, places = torch.unique(ids, return_inverse=True)
    k, _, d = values.shape
    sums = values.new_zeros((k, n * len(tokens), d))
    sums.index_add_(1, owners * len(tokens) + places, values)
    return TokenRows(parameter, tokens, by_objective(sums.reshape(k, n, len(tokens), d)))


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
