"""Products of matrices: rows are sums over positions of outer products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from jd_plugin_autogram.factors import Factors, Product, Rows, by_objective
from jd_plugin_autogram.layout import Layout
from jd_plugin_autogram.operations.base import (
    Operation,
    TensorUse,
    broadcast_dims,
    output_shape,
    summed,
)


def _right(given: Tensor) -> TensorUse | None:
    """The use of ``W`` in ``X W``."""
    inputs = given.detach()
    if inputs.layout is not torch.strided or inputs.is_complex():
        return None

    def make(target: Tensor, gradient: Tensor, layout: Layout, transposed: bool) -> Factors:
        a, b = layout.split(inputs), layout.split(gradient, 1)
        a, b = a.reshape(len(a), -1, a.shape[-1]), b.reshape(*b.shape[:2], -1, b.shape[-1])
        return Product(target, a.to(b.dtype), b, swapped=not transposed)

    return TensorUse((0,), make, transposable=True, inputs=inputs.shape[1])


def _left(given: Tensor) -> TensorUse | None:
    """The use of ``W`` in ``W X``, where the columns of ``X`` belong to instances."""
    inputs = given.detach()
    if inputs.layout is not torch.strided or inputs.is_complex():
        return None

    def make(target: Tensor, gradient: Tensor, layout: Layout, transposed: bool) -> Factors:
        columns = Layout(layout.n, 0, layout.minor)
        a = columns.split(inputs.mT)
        b = columns.split(gradient.mT, 1)
        a, b = a.reshape(len(a), -1, a.shape[-1]), b.reshape(*b.shape[:2], -1, b.shape[-1])
        return Product(target, a.to(b.dtype), b, swapped=transposed)

    return TensorUse((1,), make, transposable=True, inputs=inputs.shape[0])


class MatrixProduct(Operation):
    """``X W`` or ``W X``."""

    nodes: ClassVar[tuple[str, ...]] = ("MmBackward0",)

    def use(self, node: Any, position: int, shape: Sequence[int]) -> TensorUse | None:
        """A product of the other and the gradient."""
        return _right(node._saved_self) if position == 1 else _left(node._saved_mat2)


class MatrixProductAndSum(Operation):
    """``b + X W``."""

    nodes: ClassVar[tuple[str, ...]] = ("AddmmBackward0",)

    def use(self, node: Any, position: int, shape: Sequence[int]) -> TensorUse | None:
        """As in a product, and the sums for what is added."""
        if node._saved_alpha != 1 or node._saved_beta != 1:
            return None
        if position > 0:
            return _right(node._saved_mat1) if position == 2 else _left(node._saved_mat2)
        own = tuple(shape)

        def make(target: Tensor, gradient: Tensor, layout: Layout, _: bool) -> Factors:
            return summed(target, gradient, layout, own)

        return TensorUse(broadcast_dims(own, output_shape(node)), make)


class BatchedProduct(Operation):
    """``X_g W_g`` or ``W_g X_g`` for each of some groups, such as heads or experts."""

    nodes: ClassVar[tuple[str, ...]] = ("BmmBackward0",)

    def use(self, node: Any, position: int, shape: Sequence[int]) -> TensorUse | None:
        """The outer products of each group, where instances lie along positions."""
        other = (node._saved_self if position == 1 else node._saved_mat2).detach()
        if other.is_complex():
            return None
        right = position == 1

        def make(target: Tensor, gradient: Tensor, layout: Layout, transposed: bool) -> Factors:
            inputs, found = (other, gradient) if right else (other.mT, gradient.mT)
            lies = Layout(layout.n, 1, layout.minor)
            a, b = lies.split(inputs), lies.split(found, 1)
            # [n, g, T, d], or with the positions' share before the groups: as split leaves them.
            rows = by_objective(torch.einsum("ngtd,kngtp->kngdp", a.to(b.dtype), b))
            return Rows(target, rows if right else rows.mT)

        return TensorUse((1,) if right else (2,), make)


PRODUCTS: tuple[Operation, ...] = (MatrixProduct(), MatrixProductAndSum(), BatchedProduct())
