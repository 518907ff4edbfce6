"""Layers that multiply: their rows are sums over positions of outer products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from jd_plugin_autogram.choice import ghost_is_cheaper
from jd_plugin_autogram.pieces import Piece, Rows

_TILE: Final = 2**24
"""The largest number of entries of a block of a ghost product."""


class Ghost(Piece):
    """The rows ``P_i = Σ_t B_it A_itᵀ`` of one weight, never formed.

    Their inner products are ``Σ_st (A_is · A_jt)(B_is · B_jt)``, and ``Pᵀw`` is one product of the
    weighted ``B`` with ``A``.

    :param weight: Of shape ``[p, d]``, up to a reshape.
    :param inputs: ``A`` ``[m, T, d]``.
    :param outputs: ``B`` ``[m, T, p]``.
    """

    def __init__(
        self, weight: Tensor, inputs: Float[Tensor, "m T d"], outputs: Float[Tensor, "m T p"]
    ) -> None:
        super().__init__([weight])
        self.inputs, self.outputs = inputs, outputs

    def gramian(self) -> Float[Tensor, "m m"]:
        """Block sums of the Hadamard product, a tile of rows at a time."""
        m, length, _ = self.inputs.shape
        a, b = self.inputs.flatten(0, 1), self.outputs.flatten(0, 1)
        if length == 1:
            return (a @ a.T) * (b @ b.T)
        rows = max(1, _TILE // (m * length * length))
        tiles = []
        for start in range(0, m, rows):
            part = slice(start * length, (start + rows) * length)
            product = (a[part] @ a.T) * (b[part] @ b.T)
            tiles.append(product.reshape(-1, length, m, length).sum((1, 3)))
        return torch.cat(tiles)

    def gradients(self, weights: Float[Tensor, " m"]) -> list[Tensor]:
        """``(w ∘ B)ᵀ A``."""
        weighted = self.outputs * weights.to(self.outputs.dtype)[:, None, None]
        found = weighted.flatten(0, 1).T @ self.inputs.flatten(0, 1)
        return [found.reshape(self.parameters[0].shape)]


def product_pieces(
    weight: Tensor | None,
    bias: Tensor | None,
    inputs: Float[Tensor, "... T d"],
    outputs: Float[Tensor, "m T p"],
) -> list[Piece]:
    """The pieces of ``output = input @ weightᵀ + bias`` applied at ``T`` positions.

    :param weight: ``[p, d]`` up to a reshape; None if it is not wanted.
    :param bias: ``[p]``; None if it is not wanted.
    :param inputs: ``[m, T, d]``, or ``[T, d]`` if all objectives share them.
    :param outputs: ``[m, T, p]``.
    """
    pieces: list[Piece] = []
    if weight is not None:
        m, length, p = outputs.shape
        if inputs.ndim == 3 and ghost_is_cheaper(m, length, inputs.shape[2], p):
            pieces.append(Ghost(weight, inputs, outputs))
        else:
            pieces.append(Rows([weight], [outer_rows(weight, inputs, outputs)]))
    if bias is not None:
        pieces.append(Rows([bias], [outputs.sum(1)]))
    return pieces


def outer_rows(
    weight: Tensor, inputs: Float[Tensor, "... T d"], outputs: Float[Tensor, "m T p"]
) -> Float[Tensor, "m *shape"]:
    """``Σ_t B_t A_tᵀ`` for each objective, in the weight's shape."""
    return (outputs.mT @ inputs).reshape(len(outputs), *weight.shape)


def wanted_or_none(parameter: Tensor | None, wanted: Sequence[Tensor]) -> Tensor | None:
    """``parameter`` if it is among the wanted ones."""
    return parameter if any(parameter is other for other in wanted) else None
