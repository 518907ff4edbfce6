"""Look-up tables of one row per token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jd_plugin_autogram.factors import Factors, TokenRows, by_objective
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
        return True

    def serves(self, call: Call) -> bool:
        """Not where gradients are divided by counts over the whole batch."""
        layer: Any = call.layer
        return not layer.scale_grad_by_freq


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
    return scattered(parameter, ids.flatten(), owners, n, values.flatten(1, 2))


def scattered(
    parameter: Tensor,
    ids: Int[Tensor, " N"],
    owners: Int[Tensor, " N"],
    n: int,
    values: Float[Tensor, "k N d"],
) -> TokenRows:
    """Sums the values of equal tokens of one owner.

    :param parameter: The table.
    :param ids: The token at each position.
    :param owners: The instance of each position.
    :param n: How many instances there are.
    :param values: The gradient at each position.
    """
    tokens, places = torch.unique(ids, return_inverse=True)
    k, _, d = values.shape
    sums = values.new_zeros((k, n * len(tokens), d))
    sums.index_add_(1, owners * len(tokens) + places, values)
    return TokenRows(parameter, tokens, by_objective(sums.reshape(k, n, len(tokens), d)))
