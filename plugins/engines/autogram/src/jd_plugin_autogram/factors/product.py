"""Layers that multiply: their rows are sums over positions of outer products."""

from __future__ import annotations

from functools import cached_property
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jdframework.linalg.products import products

from jd_plugin_autogram.cost import ghost_is_cheaper
from jd_plugin_autogram.factors.base import (
    Factors,
    accumulated_in,
    at_least_float32,
    by_objective,
    gram,
    multiplied,
    rows_gramian,
    weighted_sum,
)

_TILE: Final = 2**22
"""The largest number of entries of a block of a ghost product."""
_STRIP: Final = 64
"""How many rows of a symmetric ghost product are computed at once, or one instance's."""
_CHUNK: Final = 2**20
"""The largest number of entries of rows that are made to be thrown away; they fit into a cache."""


class Product(Factors):
    """``P_ia = Σ_t B_ait A_itᵀ`` for instance i and its loss a: row ``i·k + a`` of the Jacobian.

    In *ghost* form the rows are never made: their inner products are
    ``Σ_st (A_is · A_jt)(B_ais · B_bjt)``, and ``Pᵀw`` is one product of the weighted ``B`` with
    ``A``. Otherwise they are made, and kept for the update if they are no larger than ``A`` and
    ``B``, which they then replace; if they are larger, they are made in chunks and thrown away.

    :param parameter: ``[p, d]`` up to a reshape, or ``[d, p]`` if ``swapped``.
    :param inputs: ``A`` ``[n, T, d]``.
    :param gradients: ``B`` ``[k, n, T, p]``.
    :param swapped: Whether the parameter multiplies without being transposed.
    """

    def __init__(
        self,
        parameter: Tensor,
        inputs: Float[Tensor, "n T d"],
        gradients: Float[Tensor, "k n T p"],
        *,
        swapped: bool = False,
    ) -> None:
        super().__init__(parameter)
        self.inputs, self.gradients, self.swapped = inputs, gradients, swapped
        self._kept: Tensor | None = None

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """``k, n, T, d, p``."""
        k, n, length, p = self.gradients.shape
        return k, n, length, self.inputs.shape[2], p

    @property
    def outputs(self) -> Float[Tensor, "m p"]:
        """``B``, if there is but one position."""
        _, _, _, _, p = self.sizes
        return at_least_float32(self.gradients).transpose(0, 1).reshape(-1, p)

    @cached_property
    def outputs_gram(self) -> Float[Tensor, "m m"]:
        """``B Bᵀ``, if there is but one position; a bias needs it, too."""
        return gram(self.outputs)

    def gramian(self) -> Float[Tensor, "m m"]:
        """In the cheaper form."""
        if self._kept is not None:
            return rows_gramian(self._kept)
        if ghost_is_cheaper(*self.sizes):
            return self.ghost()
        k, n, length, d, p = self.sizes
        if k * n * d * p <= n * length * (d + k * p):
            self._kept = self.rows()
            self.inputs = self.inputs.new_empty((0, 0, d))
            self.gradients = self.gradients.new_empty((k, n, 0, p))
            return rows_gramian(self._kept)
        return self.in_chunks()

    def gradient(self, weights: Float[Tensor, " m"]) -> Tensor:
        """``wᵀP`` of the rows that were kept, or ``(w ∘ B)ᵀ A``."""
        if self._kept is not None:
            return weighted_sum(weights, self._kept)
        k, n, _, d, p = self.sizes
        # In half precision, weights would be rounded as coarsely as what they are multiplied by.
        inputs, several = at_least_float32(self.inputs), at_least_float32(self.gradients)
        factors = weights.to(several.dtype).reshape(n, k).T[:, :, None, None]
        gradients = several[0]
        if n == 1:
            gradients = weighted_sum(weights, several)
        elif k > 1:
            gradients = (several * factors).sum(0)
        elif d < p:
            inputs = inputs * factors[0]
        else:
            gradients = gradients * factors[0]
        found = gradients.reshape(-1, p).T @ inputs.reshape(-1, d)
        return (found.T if self.swapped else found).reshape(self.parameter.shape)

    def rows(self) -> Float[Tensor, "m *shape"]:
        """``Bᵀ A`` per instance and loss."""
        if self._kept is not None:
            return self._kept
        found = _outer(self.inputs, self.gradients)
        oriented = found.mT if self.swapped else found
        return oriented.reshape(len(found), *self.parameter.shape)

    def rows_of(self, tokens: Int[Tensor, " U"]) -> Float[Tensor, "m U d"]:
        """Those of some rows of the parameter."""
        if self._kept is not None:
            return self._kept[:, tokens]
        part = self.parameter[tokens].detach()
        return Product(part, self.inputs, self.gradients[..., tokens]).rows()

    def scale(self, factors: Float[Tensor, " m"]) -> None:
        """The rows, or ``B``."""
        if self._kept is not None:
            self._kept = multiplied(self._kept, factors)
            return
        vars(self).pop("outputs_gram", None)
        self.gradients = scaled_gradients(self.gradients, factors)
        self.inputs = self.inputs.to(self.gradients.dtype)

    def reaches(self, rows: Int[Tensor, " r"]) -> Bool[Tensor, ""]:
        """As the rows, or ``B``, tell."""
        if self._kept is not None:
            return self._kept[rows].any()
        k = len(self.gradients)
        return self.gradients[rows % k, rows // k].any()

    def ghost(self) -> Float[Tensor, "m m"]:
        """The Gramian without the rows."""
        k, n, length, d, _ = self.sizes
        inputs, gradients = at_least_float32(self.inputs), at_least_float32(self.gradients)
        if n == 1:
            return _of_one_batch(inputs[0], gradients[:, 0])
        if length == 1:
            a = gram(inputs.reshape(n, d))
            if k > 1:
                a = a.repeat_interleave(k, 0).repeat_interleave(k, 1)
            return a * self.outputs_gram
        found = inputs.new_empty((n, k, n, k))
        for first, left in enumerate(gradients.unbind()):
            for second, right in enumerate(gradients.unbind()[: first + 1]):
                block = _block_sums(inputs, left, right, symmetric=first == second)
                found[:, first, :, second], found[:, second, :, first] = block, block.T
        return found.reshape(n * k, n * k)

    def in_chunks(self) -> Float[Tensor, "m m"]:
        """The Gramian of rows that are thrown away."""
        k, n, _, d, p = self.sizes
        width = max(1, _CHUNK // (k * n * d))
        dtype = torch.promote_types(self.gradients.dtype, torch.float32)
        # There may be thousands of chunks, whose rounding errors would add up.
        added_in = dtype if self.gradients.device.type == "mps" else torch.float64
        total = self.gradients.new_zeros((k * n, k * n), dtype=added_in)
        # Fresh memory costs more than the product that fills it.
        space = self.gradients.new_empty(k * n * d * min(width, p))
        for start in range(0, p, width):
            chunk = _outer(self.inputs, self.gradients[..., start : start + width], space)
            total += rows_gramian(chunk)
        return total.to(dtype)


def scaled_gradients(
    gradients: Float[Tensor, "k n *shape"], factors: Float[Tensor, " m"]
) -> Float[Tensor, "k n *shape"]:
    """The gradients of outputs, by whose scale that of the rows is changed.

    :param factors: In the order ``i·k + a``.
    """
    k, n = gradients.shape[:2]
    by_pass = factors.reshape(n, k).T.reshape(-1)
    rows: Tensor = multiplied(gradients.flatten(0, 1), by_pass).unflatten(0, (k, n))
    return rows


def _outer(
    inputs: Float[Tensor, "n T d"],
    gradients: Float[Tensor, "k n T p"],
    space: Tensor | None = None,
) -> Float[Tensor, "m p d"]:
    """``Bᵀ A`` per instance and loss.

    :param space: Where to put it, where that is possible.
    """
    k, n, length, p = gradients.shape
    d = inputs.shape[2]
    if n == 1:
        return (gradients.mT.reshape(k * p, length) @ inputs[0]).reshape(k, p, d)
    if length == 1:
        found = gradients.reshape(k, n, p, 1) * inputs.reshape(n, 1, d)
    elif k == 1:
        out = None if space is None else space[: n * p * d].view(n, p, d)
        return torch.bmm(gradients[0].mT, inputs, out=out)
    else:
        found = gradients.mT @ inputs
    return found.transpose(0, 1).reshape(n * k, p, d)


def _of_one_batch(
    inputs: Float[Tensor, "T d"], gradients: Float[Tensor, "k T p"]
) -> Float[Tensor, "k k"]:
    """``⟨A Aᵀ B_a, B_b⟩``."""
    k, length, p = gradients.shape
    side_by_side = gradients.transpose(0, 1).reshape(length, k * p)
    mixed = (inputs @ inputs.T @ side_by_side).reshape(length, k, p).transpose(0, 1)
    return products(mixed.reshape(k, -1), gradients.reshape(k, -1))


def _block_sums(
    inputs: Float[Tensor, "n T d"],
    left: Float[Tensor, "n T p"],
    right: Float[Tensor, "n T p"],
    *,
    symmetric: bool,
) -> Float[Tensor, "n n"]:
    """``Σ_st (A_is · A_jt)(B_is · B_jt)``, a tile of instances at a time.

    :param symmetric: Whether ``left`` is ``right``, so that one half tells the other.
    """
    n, length, _ = inputs.shape
    a, b, c = inputs.flatten(0, 1), left.flatten(0, 1), right.flatten(0, 1)
    step = max(1, min(_TILE // (n * length * length), _STRIP // length if symmetric else n))
    found = inputs.new_empty((n, n))
    for start in range(0, n, step):
        end, begin = min(start + step, n), start if symmetric else 0
        rows, columns = slice(start * length, end * length), slice(begin * length, None)
        product = (a[rows] @ a[columns].T).mul_(b[rows] @ c[columns].T)
        sums = product.reshape(end - start, length, n - begin, length).sum((1, 3))
        found[start:end, begin:] = sums
        if symmetric:
            found[end:, start:end] = sums[:, end - start :].T
    return found


class Bias(Factors):
    """The bias of a product: its rows are the sums of the gradients over positions.

    :param parameter: ``[p]``.
    :param gradients: ``B`` ``[k, n, T, p]``.
    :param product: The weight's factors, if that is wanted, too.
    """

    def __init__(
        self, parameter: Tensor, gradients: Float[Tensor, "k n T p"], product: Product | None
    ) -> None:
        super().__init__(parameter)
        one_position = gradients.shape[2] == 1
        dtype = accumulated_in(gradients)
        sums = gradients[:, :, 0] if one_position else gradients.sum(2, dtype=dtype)
        self._block = by_objective(sums)
        self._product = product if one_position and gradients.shape[1] > 1 else None

    def gramian(self) -> Float[Tensor, "m m"]:
        """With one position, the weight's factors have computed it."""
        if self._product is not None and self._product.gradients.shape[2] == 1:
            return self._product.outputs_gram.clone()
        return rows_gramian(self._block)

    def gradient(self, weights: Float[Tensor, " m"]) -> Tensor:
        """``wᵀP``."""
        return weighted_sum(weights, self._block)

    def rows(self) -> Float[Tensor, "m p"]:
        """The gradients at the outputs, added over all positions."""
        return self._block

    def scale(self, factors: Float[Tensor, " m"]) -> None:
        """Scales the sums of the gradients at the outputs."""
        self._block = multiplied(self._block, factors)
        self._product = None  # whose rows may have other factors

    def reaches(self, rows: Int[Tensor, " r"]) -> Bool[Tensor, ""]:
        """Whether any of the rows has an entry other than zero."""
        return self._block[rows].any()
