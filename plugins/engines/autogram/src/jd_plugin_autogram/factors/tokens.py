"""Look-up tables, of which a batch touches few rows."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jd_plugin_autogram.factors.base import (
    Factors,
    by_objective,
    multiplied,
    rows_gramian,
    weighted_sum,
)


class TokenRows(Factors):
    """The rows of a table, restricted to the ``U`` tokens that occur.

    :param parameter: The table ``[V, d]``.
    :param tokens: The distinct tokens ``[U]``, in ascending order.
    :param block: ``[m, U, d]``.
    """

    def __init__(
        self, parameter: Tensor, tokens: Int[Tensor, " U"], block: Float[Tensor, "m U d"]
    ) -> None:
        super().__init__(parameter)
        self.tokens, self.block = tokens, block

    def gramian(self) -> Float[Tensor, "m m"]:
        """Tokens that do not occur contribute nothing."""
        return rows_gramian(self.block)

    def gradient(self, weights: Float[Tensor, " m"]) -> Tensor:
        """``wᵀP``, spread over the table."""
        found = self.block.new_zeros(self.parameter.shape)
        found[self.tokens] = weighted_sum(weights, self.block)
        return found

    def rows(self) -> Float[Tensor, "m V d"]:
        """The whole table for each objective."""
        whole = self.block.new_zeros((len(self.block), *self.parameter.shape))
        whole[:, self.tokens] = self.block
        return whole

    def scale(self, factors: Float[Tensor, " m"]) -> None:
        """Those of the tokens that occur."""
        self.block = multiplied(self.block, factors)

    def reaches(self, rows: Int[Tensor, " r"]) -> Bool[Tensor, ""]:
        """Those of the tokens that occur."""
        return self.block[rows].any()


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
