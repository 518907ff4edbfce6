"""Convolutions with a weight that is computed, such as a standardised one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from jd_plugin_autogram.factors import Factors, Rows, accumulated_in, by_objective
from jd_plugin_autogram.factors.convolution import Convolved, Geometry
from jd_plugin_autogram.layout import Layout
from jd_plugin_autogram.operations.base import Operation, TensorUse


class Convolution(Operation):
    """``y = W * x + b``."""

    nodes: ClassVar[tuple[str, ...]] = ("ConvolutionBackward0",)

    def use(self, node: Any, position: int, shape: Sequence[int]) -> TensorUse | None:
        """A convolution of the inputs with the gradients, and the sums for the bias."""
        if position == 2:
            return TensorUse((0,), _of_bias)
        if position != 1:
            return None
        inputs: Tensor = node._saved_input.detach()
        if inputs.is_complex():
            return None
        geometry = Geometry(
            tuple(shape[2:]),
            tuple(node._saved_stride),
            tuple(node._saved_padding),
            tuple(node._saved_dilation),
            tuple(node._saved_output_padding),
            node._saved_groups,
            node._saved_transposed,
        )

        def make(target: Tensor, gradient: Tensor, layout: Layout, _: bool) -> Factors:
            a, b = layout.split(inputs), layout.split(gradient, 1)
            return Convolved(target, a.to(b.dtype), b, geometry)

        return TensorUse((0,), make)


def _of_bias(target: Tensor, gradient: Tensor, layout: Layout, _: bool) -> Factors:
    split = layout.split(gradient, 1)
    return Rows(target, by_objective(split.flatten(4).sum((2, 4), dtype=accumulated_in(split))))
