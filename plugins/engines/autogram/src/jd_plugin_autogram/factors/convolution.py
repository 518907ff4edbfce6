"""Convolutions: their rows are themselves convolutions of the inputs with the gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from jdframework.linalg.products import products

from jd_plugin_autogram.cost import ghost_is_cheaper
from jd_plugin_autogram.factors.base import (
    Factors,
    at_least_float32,
    multiplied,
    rows_gramian,
    weighted_sum,
)
from jd_plugin_autogram.factors.product import Product, scaled_gradients

_SMALL: Final = 2**24
"""Bytes of rows that are made at once where they are not to be kept."""

_LARGE: Final = 2**17
"""From how many entries of a weight on a product over patches is faster than a convolution of
convolutions, as was seen on a CPU."""
_LONG: Final = 128
"""From how many positions on an update without the rows takes longer than keeping them."""
_WORTH: Final = 2
"""How many times as large as what they replace such rows may be."""


class Geometry(NamedTuple):
    """How a convolution slides."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int
    transposed: bool


class Convolved(Factors):
    """The rows of a convolution's weight, by one grouped convolution for all instances.

    :param parameter: The weight.
    :param inputs: ``[n, t, C, *positions]``: ``t`` images per instance.
    :param gradients: ``[k, n, t, C', *positions]``.
    :param geometry: How the convolution slides.
    """

    def __init__(
        self,
        parameter: Tensor,
        inputs: Float[Tensor, "n t C *positions"],
        gradients: Float[Tensor, "k n t D *outputs"],
        geometry: Geometry,
    ) -> None:
        super().__init__(parameter)
        self.inputs, self.gradients, self.geometry = inputs, gradients, geometry
        self._kept: Tensor | None = None

    def gramian(self) -> Float[Tensor, "m m"]:
        """In the cheaper form."""
        if self._kept is not None:
            return rows_gramian(self._kept)
        k, n, images = self.gradients.shape[:3]
        small = self.inputs if self.geometry.transposed else self.gradients
        length = images * small.shape[-len(self.geometry.kernel) :].numel()
        p, d = len(self.parameter) // self.geometry.groups, self.parameter[0].numel()
        if not self.geometry.transposed and ghost_is_cheaper(k, n, length, d, p):
            return _total(part.ghost() for part in self._products(by_position=True))
        if n > 1 and not self.geometry.transposed and self.parameter.numel() > _LARGE:
            return _total(part.in_chunks() for part in self._products(by_position=False))
        allowed = _WORTH if length >= _LONG else 1
        given = self.inputs.numel() + self.gradients.numel()
        if k * n * self.parameter.numel() <= allowed * given:
            self._kept = self.rows()
            self.inputs, self.gradients = self.inputs[:0], self.gradients[:, :0]
            return rows_gramian(self._kept)
        return self._gramian_in_chunks()

    def gradient(self, weights: Float[Tensor, " m"]) -> Tensor:
        """``wᵀP`` of the rows that were kept, or one ordinary weight gradient."""
        if self._kept is not None:
            return weighted_sum(weights, self._kept)
        # In half precision, weights would be rounded as coarsely as what they are multiplied by.
        gradients, inputs = at_least_float32(self.gradients), at_least_float32(self.inputs)
        k, n = gradients.shape[:2]
        factors = weights.to(gradients.dtype).reshape(n, k).T
        factors = factors.reshape(k, n, *(1,) * (gradients.ndim - 2))
        weighted = (gradients * factors).sum(0)
        return self._weight_gradient(inputs.flatten(0, 1), weighted.flatten(0, 1), 1)

    def rows(self) -> Float[Tensor, "m *shape"]:
        """``Σ_t B_t A_tᵀ``."""
        return self._rows_of(slice(None)) if self._kept is None else self._kept

    def scale(self, factors: Float[Tensor, " m"]) -> None:
        """The rows, or the gradients of the outputs."""
        if self._kept is not None:
            self._kept = multiplied(self._kept, factors)
            return
        self.gradients = scaled_gradients(self.gradients, factors)
        self.inputs = self.inputs.to(self.gradients.dtype)

    def reaches(self, rows: Int[Tensor, " r"]) -> Bool[Tensor, ""]:
        """As the rows, or the gradients of the outputs, tell."""
        if self._kept is not None:
            return self._kept[rows].any()
        k = len(self.gradients)
        return self.gradients[rows % k, rows // k].any()

    def _rows_of(self, part: slice) -> Float[Tensor, "m *shape"]:
        """Those of some parameter rows' output channels of the instances ``part``."""
        inputs = self.inputs[part]
        n = len(inputs)
        side_by_side = inputs.transpose(0, 1).flatten(1, 2)
        found = [
            self._weight_gradient(side_by_side, g[part].transpose(0, 1).flatten(1, 2), n)
            for g in self.gradients.unbind()
        ]
        blocks = [block.reshape(n, *self.parameter.shape) for block in found]
        return blocks[0] if len(blocks) == 1 else torch.stack(blocks, dim=1).flatten(0, 1)

    def _weight_gradient(self, inputs: Tensor, gradients: Tensor, n: int) -> Tensor:
        """The weights' gradients of ``n`` convolutions that lie side by side in the channels."""
        geometry, shape = self.geometry, self.parameter.shape
        # Never read; one that is expanded from a single number would be copied, which is slower.
        weight = gradients.new_empty((n * shape[0], *shape[1:]))
        arguments = (
            gradients,
            inputs,
            weight,
            None,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.transposed,
            geometry.output_padding,
            n * geometry.groups,
            (False, True, False),
        )
        try:
            found: Tensor = torch.ops.aten.convolution_backward(*arguments)[1]
        except RuntimeError as error:
            if "primitive" not in str(error) or not torch._C._get_mkldnn_enabled():
                raise
            # oneDNN has none for some shapes of so many groups, of which torch has a form itself.
            # ``torch.backends.mkldnn.flags`` sets more than this, and warns of it.
            torch._C._set_mkldnn_enabled(False)
            try:
                found = torch.ops.aten.convolution_backward(*arguments)[1]
            finally:
                torch._C._set_mkldnn_enabled(True)
        return found

    def _gramian_in_chunks(self) -> Float[Tensor, "m m"]:
        """Pairs of chunks of instances, whose rows are made anew for each pair."""
        k, n = self.gradients.shape[:2]
        size = k * self.parameter.numel() * self.gradients.element_size()
        step = max(1, _SMALL // max(1, size))
        parts = [slice(start, min(start + step, n)) for start in range(0, n, step)]
        total = at_least_float32(self.gradients.new_zeros((n * k, n * k)))
        for i, first in enumerate(parts):
            left = at_least_float32(self._rows_of(first).flatten(1))
            rows = slice(first.start * k, first.stop * k)
            for second in parts[i:]:
                right = left if second is first else self._rows_of(second).flatten(1)
                columns = slice(second.start * k, second.stop * k)
                block = products(left, right.to(left.dtype))
                total[rows, columns], total[columns, rows] = block, block.T
        return total

    def _products(self, *, by_position: bool) -> list[Product]:
        """The same rows as those of linear layers over patches, one for each group."""
        n = self.gradients.shape[1]
        groups = self.geometry.groups
        patches = _patches(self.inputs.flatten(0, 1), self.geometry, by_position=by_position)
        a = patches.unflatten(0, (n, -1)).transpose(1, 2).flatten(2, 3)
        b = self.gradients.unflatten(3, (groups, -1)).flatten(5).permute(0, 1, 3, 2, 5, 4)
        b = b.flatten(3, 4)
        parts = self.parameter.detach().reshape(groups, -1, a.shape[3]).unbind()
        return [Product(part, a[:, i], b[:, :, i]) for i, part in enumerate(parts)]


def _total(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0)


def _patches(inputs: Tensor, geometry: Geometry, *, by_position: bool) -> Float[Tensor, "N g T d"]:
    """What each output position sees, ``d`` running over channels and kernel.

    :param by_position: Whether a position's numbers are to lie side by side in memory, rather than
        the positions, whose copy is faster.
    """
    inputs = functional.pad(inputs, [s for p in reversed(geometry.padding) for s in (p, p)])
    view = inputs
    steps = zip(geometry.kernel, geometry.stride, geometry.dilation, strict=True)
    for axis, (size, step, gap) in enumerate(steps):
        view = view.unfold(2 + axis, (size - 1) * gap + 1, step)[..., ::gap]
    dimensions = len(geometry.kernel)
    grouped: Tensor = view.unflatten(1, (geometry.groups, -1))
    positions, kernel = range(3, 3 + dimensions), range(3 + dimensions, 3 + 2 * dimensions)
    if by_position:
        ordered = grouped.permute(0, 1, *positions, 2, *kernel)
        return ordered.flatten(2, 1 + dimensions).flatten(3)
    ordered = grouped.permute(0, 1, 2, *kernel, *positions)
    return ordered.flatten(2, 2 + dimensions).flatten(3).mT
