"""One layer's share of the Gramian, and of the update once the weights are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class Piece(ABC):
    """The rows of the Jacobian that belong to some parameters, in whatever form is cheapest.

    :param parameters: The parameters.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)

    @abstractmethod
    def gramian(self) -> Float[Tensor, "m m"]:
        """``P Pᵀ`` of these rows."""

    @abstractmethod
    def gradients(self, weights: Float[Tensor, " m"]) -> list[Tensor]:
        """``Pᵀw``, one tensor per parameter."""


class Rows(Piece):
    """The rows themselves, ``[m, *shape]`` per parameter."""

    def __init__(self, parameters: Sequence[Tensor], rows: Sequence[Tensor]) -> None:
        super().__init__(parameters)
        self.rows = list(rows)

    def gramian(self) -> Float[Tensor, "m m"]:
        """The sum of the blocks' Gramians."""
        products = []
        for block in self.rows:
            matrix = _at_least_float32(block.reshape(len(block), -1))
            products.append(matrix @ matrix.T)
        return torch.stack(products).sum(0) if len(products) > 1 else products[0]

    def gradients(self, weights: Float[Tensor, " m"]) -> list[Tensor]:
        """``wᵀP``."""
        return [
            (weights.to(block.dtype) @ block.reshape(len(block), -1)).reshape(block.shape[1:])
            for block in self.rows
        ]


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
