"""Factors of a slice of a parameter, such as the keys' share of an attention's projection."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from jd_plugin_autogram.factors.base import Factors


class SliceFactors(Factors):
    """Factors of ``parameter[start:stop]``.

    :param parameter: The whole parameter.
    :param part: The factors of the slice.
    :param start: Where the part starts along the first dimension.
    """

    def __init__(self, parameter: Tensor, part: Factors, start: int) -> None:
        super().__init__(parameter)
        self.part, self.start = part, start

    def gramian(self) -> Float[Tensor, "m m"]:
        """That of the part."""
        return self.part.gramian()

    def gradient(self, weights: Float[Tensor, " m"]) -> Tensor:
        """That of the part, and zeros around it."""
        found = self.part.gradient(weights)
        whole = found.new_zeros(self.parameter.shape)
        whole[self.start : self.start + len(found)] = found
        return whole

    def rows(self) -> Float[Tensor, "m *shape"]:
        """Those of the part, and zeros around them."""
        found = self.part.rows()
        whole = found.new_zeros((len(found), *self.parameter.shape))
        whole[:, self.start : self.start + found.shape[1]] = found
        return whole

    def scale(self, factors: Float[Tensor, " m"]) -> None:
        """Those of the part."""
        self.part.scale(factors)

    def reaches(self, rows: Int[Tensor, " r"]) -> Bool[Tensor, ""]:
        """Those of the part."""
        return self.part.reaches(rows)
