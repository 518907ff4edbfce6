"""Convolutions and transposed convolutions, in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from jd_plugin_autogram.factors import Factors, Product, Rows, accumulated_in, by_objective
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
        kernel = tuple(weight.shape[2:])
        stride, dilation, output_padding = (
            _in_each(setting, len(kernel))
            for setting in (layer.stride, layer.dilation, layer.output_padding)
        )
        sides = _sides(layer, kernel, dilation)
        padded = any(left or right for left, right in sides)
        ones = (1,) * len(kernel)
        unpadded = not padded and not any(output_padding)
        if kernel == ones == stride and layer.groups == 1 and unpadded:
            gradients = _pixels(use.gradient, use, 1)
            inputs = _pixels(use.input, use, 0).to(gradients.dtype)
            return Product(weight, inputs, gradients, swapped=layer.transposed)
        given, padding = use.input, tuple(left for left, _ in sides)
        if layer.padding_mode != "zeros" or any(left != right for left, right in sides):
            given, padding = _padded(given, sides, layer.padding_mode), (0,) * len(kernel)
        inputs, gradients = use.layout.split(given), use.layout.split(use.gradient, 1)
        geometry = Geometry(
            kernel, stride, padding, dilation, output_padding, layer.groups, layer.transposed
        )
        return Convolved(weight, inputs.to(gradients.dtype), gradients, geometry)


def _in_each(setting: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    """A setting in each dimension, as torch reads it."""
    given = (setting,) if isinstance(setting, int) else tuple(setting)
    return given * dimensions if len(given) == 1 else given


def _pixels(tensor: Tensor, use: Use, leading: int) -> Tensor:
    """``[…, n, T, C]``: the positions of all of an instance's images."""
    last = use.layout.split(tensor.movedim(leading + 1, -1), leading)
    return last.reshape(*last.shape[: leading + 1], -1, last.shape[-1])


def _bias_rows(use: Use) -> Tensor:
    split = use.layout.split(use.gradient, 1)
    return by_objective(split.flatten(4).sum((2, 4), dtype=accumulated_in(split)))


def _sides(layer: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """The padding before and after, in each dimension, by what the layer's forward pass reads.

    That is ``padding``, which may be another than the layer was made with; for padding other than
    by zeros, what was computed of it then.
    """
    if layer.padding_mode != "zeros":
        given = layer._reversed_padding_repeated_twice
        return list(zip(given[::2], given[1::2], strict=True))[::-1]
    if layer.padding == "same":
        totals = [gap * (size - 1) for size, gap in zip(kernel, dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    given = 0 if layer.padding == "valid" else layer.padding
    return [(size, size) for size in _in_each(given, len(kernel))]


def _padded(inputs: Tensor, sides: Sequence[tuple[int, int]], mode: str) -> Tensor:
    widths = [width for side in reversed(sides) for width in side]
    return functional.pad(inputs, widths, mode="constant" if mode == "zeros" else mode)
