"""The interface of all factors, and the rows themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jdframework.linalg.gramian import weighted_sum as weighted_rows
from jdframework.linalg.products import products

_STRIP: Final = 64
"""How many rows of a symmetric product are computed at once."""


class Factors(ABC):
    """The rows of the Jacobian that belong to one parameter, in whatever form is cheapest.

    :param parameter: The parameter.
    """

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter

    @abstractmethod
    def gramian(self) -> Float[Tensor, "m m"]:
        """``P Pᵀ`` of these rows."""

    @abstractmethod
    def gradient(self, weights: Float[Tensor, " m"]) -> Tensor:
        """``Pᵀw``, in the parameter's shape."""

    @abstractmethod
    def rows(self) -> Float[Tensor, "m *shape"]:
        """``P`` itself."""

    @abstractmethod
    def scale(self, factors: Float[Tensor, " m"]) -> None:
        """Multiplies the rows, before any of the above is asked for again.

        :param factors: Powers of two.
        """

    @abstractmethod
    def reaches(self, rows: Int[Tensor, " r"]) -> Bool[Tensor, ""]:
        """Whether some of these rows may be other than zero, without making them."""


class Rows(Factors):
    """The rows themselves.

    :param parameter: The parameter.
    :param block: ``[m, *shape]``.
    """

    def __init__(self, parameter: Tensor, block: Float[Tensor, "m *shape"]) -> None:
        super().__init__(parameter)
        self._block = block

    def gramian(self) -> Float[Tensor, "m m"]:
        """One product of the rows with themselves."""
        return rows_gramian(self._block)

    def gradient(self, weights: Float[Tensor, " m"]) -> Tensor:
        """``wᵀP``."""
        return weighted_sum(weights, self._block)

    def rows(self) -> Float[Tensor, "m *shape"]:
        """Gives the rows that it holds."""
        return self._block

    def scale(self, factors: Float[Tensor, " m"]) -> None:
        """Multiplies the rows that it holds."""
        self._block = multiplied(self._block, factors)

    def reaches(self, rows: Int[Tensor, " r"]) -> Bool[Tensor, ""]:
        """Whether any entry of the rows that it holds is not zero."""
        return self._block[rows].any()


def rows_gramian(block: Float[Tensor, "m *shape"]) -> Float[Tensor, "m m"]:
    """``P Pᵀ``."""
    return gram(at_least_float32(block.reshape(len(block), -1)))


def gram(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m m"]:
    """``M Mᵀ``, of which but little more than one half is computed where that pays."""
    m = len(matrix)
    if m < 2 * _STRIP:
        return products(matrix, matrix)
    found = matrix.new_empty((m, m))
    for start in range(0, m, _STRIP):
        end = start + _STRIP
        found[start:end, start:] = products(matrix[start:end], matrix[start:])
        found[end:, start:end] = found[start:end, end:].T
    return found


def weighted_sum(weights: Float[Tensor, " m"], block: Float[Tensor, "m *shape"]) -> Tensor:
    """``Σ_i w_i block_i``."""
    return weighted_rows([block], weights)[0]


def multiplied(block: Float[Tensor, "m *shape"], factors: Float[Tensor, " m"]) -> Tensor:
    """Rows times powers of two, for which half precision has no room."""
    wide = block.float() if block.dtype == torch.float16 else block
    return wide * factors.to(wide).reshape(-1, *(1,) * (wide.ndim - 1))


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in single precision if it was in half."""
    return tensor.to(accumulated_in(tensor))


def accumulated_in(tensor: Tensor) -> torch.dtype:
    """The dtype in which entries of the tensor are summed: single precision at least."""
    return torch.promote_types(tensor.dtype, torch.float32)


def by_objective(block: Float[Tensor, "k n *shape"]) -> Float[Tensor, "m *shape"]:
    """The rows in the order of the Jacobian's: those of one instance side by side."""
    return block.transpose(0, 1).flatten(0, 1)
