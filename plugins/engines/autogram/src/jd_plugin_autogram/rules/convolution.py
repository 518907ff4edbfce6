"""Convolutions and transposed convolutions, in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from jd_plugin_autogram.factors import Factors, Product, Rows, by_objective
from jd_plugin_autogram.factors.convolution import Convolved, Geometry
from jd_plugin_autogram.recording import Call
from jd_plugin_autogram.rules.base import Rule, Use


class Convolution(Rule):
    """``y = W * x + b``: a linear layer over the patches of ``x``, group by group."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
    )
    parameters: ClassVar[frozenset[str]] = frozenset({"weight", "bias"})

    def factors(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Factors]:
        """A convolution of the inputs with the gradients; a product where the kernel is 1."""
        return [
            self._of_weight(p, use) if p is use.layer.weight else Rows(p, _bias_rows(use))
            for p in wanted
        ]

    def serves(self, call: Call) -> bool:
        """Not one image alone."""
        layer: Any = call.layer
        given = call.args[0] if call.args else call.kwargs["input"]
        asks_for_size = len(call.args) > 1 or call.kwargs.get("output_size") is not None
        return given.ndim == len(layer.kernel_size) + 2 and not asks_for_size

    def _of_weight(self, weight: nn.Parameter, use: Use) -> Factors:
        layer = use.layer
        if _is_pointwise(layer):
            gradients = _pixels(use.gradient, use, 1)
            inputs = _pixels(use.input, use, 0).to(gradients.dtype)
            return Product(weight, inputs, gradients, swapped=layer.transposed)
        padding = _even_padding(layer)
        given = use.input if padding is not None else _padded(use.input, layer)
        inputs, gradients = use.layout.split(given), use.layout.split(use.gradient, 1)
        geometry = Geometry(
            tuple(layer.kernel_size),
            tuple(layer.stride),
            padding or (0,) * len(layer.kernel_size),
            tuple(layer.dilation),
            tuple(layer.output_padding),
            layer.groups,
            layer.transposed,
        )
        return Convolved(weight, inputs.to(gradients.dtype), gradients, geometry)


def _is_pointwise(layer: Any) -> bool:
    ones = (1,) * len(layer.kernel_size)
    unpadded = not any(layer._reversed_padding_repeated_twice) and not any(layer.output_padding)
    return layer.kernel_size == ones == layer.stride and layer.groups == 1 and unpadded


def _pixels(tensor: Tensor, use: Use, leading: int) -> Tensor:
    """``[…, n, T, C]``: the positions of all of an instance's images."""
    last = use.layout.split(tensor.movedim(leading + 1, -1), leading)
    return last.reshape(*last.shape[: leading + 1], -1, last.shape[-1])


def _bias_rows(use: Use) -> Tensor:
    split = use.layout.split(use.gradient, 1)
    return by_objective(split.flatten(4).sum((2, 4)))


def _even_padding(layer: Any) -> tuple[int, ...] | None:
    """The padding, if it is by zeros and as large on both sides."""
    if layer.transposed:
        return tuple(layer.padding)
    sides = layer._reversed_padding_repeated_twice[::-1]
    even = all(left == right for left, right in zip(sides[::2], sides[1::2], strict=True))
    return tuple(sides[::2]) if even and layer.padding_mode == "zeros" else None


def _padded(inputs: Tensor, layer: Any) -> Tensor:
    sides = layer._reversed_padding_repeated_twice
    if not any(sides):
        return inputs
    if layer.padding_mode == "zeros":
        return functional.pad(inputs, sides)
    return functional.pad(inputs, sides, mode=layer.padding_mode)
