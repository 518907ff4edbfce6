"""Look-up tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jd_plugin_autogram.pieces import Piece
from jd_plugin_autogram.rules.base import Rule, Use


class TokenRows(Piece):
    """The rows of a table that few tokens touch: ``[m, U, d]`` over the ``U`` tokens that occur.

    :param weight: The table ``[V, d]``.
    :param tokens: The distinct tokens ``[U]``.
    :param rows: ``[m, U, d]``.
    """

    def __init__(self, weight: Tensor, tokens: Int[Tensor, " U"], rows: Float[Tensor, "m U d"]):
        super().__init__([weight])
        self.tokens, self.rows = tokens, rows

    def gramian(self) -> Float[Tensor, "m m"]:
        """Tokens that do not occur contribute nothing."""
        matrix = self.rows.flatten(1)
        return matrix @ matrix.T

    def gradients(self, weights: Float[Tensor, " m"]) -> list[Tensor]:
        """``wᵀP``, spread over the table."""
        summed = torch.tensordot(weights.to(self.rows.dtype), self.rows, dims=1)
        found = torch.zeros_like(self.parameters[0])
        found[self.tokens] = summed
        return [found]


class Embedding(Rule):
    """``y_t = W[token_t]``."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.Embedding,)
    positionwise: ClassVar[bool] = True

    def pieces(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Piece]:
        """Only the tokens that occur are kept."""
        tokens, rows = _occurring(use)
        return [TokenRows(use.layer.weight, tokens, rows)] if wanted else []

    def rows(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Tensor]:
        """The whole table for each objective."""
        tokens, rows = _occurring(use)
        table = rows.new_zeros((len(rows), *use.layer.weight.shape))
        table[:, tokens] = rows
        return [table for _ in wanted]

    def refusal(self, layer: Any) -> str | None:
        """Some options change the gradient by counts over the whole batch."""
        if layer.scale_grad_by_freq:
            return "scale_grad_by_freq counts tokens over the whole batch; switch it off"
        return None


def _occurring(use: Use) -> tuple[Tensor, Tensor]:
    gradient = use.gradient
    m, d = len(gradient), gradient.shape[-1]
    ids = use.inputs[0].reshape(1 if use.shared else m, -1)
    tokens, places = torch.unique(ids, return_inverse=True)
    values = gradient.reshape(m, -1, d)
    if use.layer.padding_idx is not None:
        values = values * (ids != use.layer.padding_idx).unsqueeze(-1)
    rows = values.new_zeros((m, len(tokens), d))
    rows.scatter_add_(1, places.unsqueeze(-1).expand_as(values), values)
    return tokens, rows
