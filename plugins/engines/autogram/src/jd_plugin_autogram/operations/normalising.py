"""Normalisations, whose scale and shift all instances share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from jd_plugin_autogram.factors import Factors, Rows, by_objective
from jd_plugin_autogram.layout import Layout
from jd_plugin_autogram.operations.base import Operation, TensorUse, output_shape, summed


class Normalisation(Operation):
    """``y = x̂ ∘ w + b``."""

    def use(self, node: Any, position: int, shape: Sequence[int]) -> TensorUse | None:
        """``Σ B ∘ x̂`` and ``Σ B``."""
        if position == 0 or not self.serves(node):
            return None
        normal = self.normal(node) if position == 1 else None
        total = self.total

        def make(target: Tensor, gradient: Tensor, layout: Layout, _: bool) -> Factors:
            product = gradient if normal is None else gradient * normal.to(gradient.dtype)
            return total(target, product, layout)

        return TensorUse(self.dims(node, shape), make)

    def serves(self, node: Any) -> bool:
        """Whether each instance is normalised by itself."""
        return True

    @abstractmethod
    def normal(self, node: Any) -> Tensor:
        """``x̂``."""

    @abstractmethod
    def dims(self, node: Any, shape: Sequence[int]) -> tuple[int, ...]:
        """Where instances may lie."""

    @abstractmethod
    def total(self, target: Tensor, product: Float[Tensor, "k *shape"], layout: Layout) -> Factors:
        """The sums over all that shares an entry of the scale."""


class LayerNorm(Normalisation):
    """One scale per entry of the normalised shape."""

    nodes: ClassVar[tuple[str, ...]] = ("NativeLayerNormBackward0",)

    def normal(self, node: Any) -> Tensor:
        """By the statistics that the node has saved."""
        inputs: Tensor = node._saved_input.detach()
        normal: Tensor = (inputs - node._saved_result1) * node._saved_result2
        return normal

    def dims(self, node: Any, shape: Sequence[int]) -> tuple[int, ...]:
        """All but those that are normalised."""
        return tuple(range(len(output_shape(node)) - len(shape)))

    def total(self, target: Tensor, product: Float[Tensor, "k *shape"], layout: Layout) -> Factors:
        """As for what is broadcast."""
        return summed(target, product, layout, tuple(target.shape))


class ChannelNorm(Normalisation):
    """One scale per channel."""

    def dims(self, node: Any, shape: Sequence[int]) -> tuple[int, ...]:
        """The images'."""
        return (0,)

    def total(self, target: Tensor, product: Float[Tensor, "k *shape"], layout: Layout) -> Factors:
        """Over positions, and over the images of an instance."""
        sums = product.flatten(3).sum(3) if product.ndim > 3 else product
        return Rows(target, by_objective(layout.split(sums, 1).sum(2)))


class GroupNorm(ChannelNorm):
    """Normalises groups of channels of one image."""

    nodes: ClassVar[tuple[str, ...]] = ("NativeGroupNormBackward0",)

    def normal(self, node: Any) -> Tensor:
        """By the statistics that the node has saved."""
        inputs: Tensor = node._saved_input.detach()
        groups = inputs.reshape(node._saved_N, node._saved_group, -1)
        mean, scale = node._saved_result1.unsqueeze(2), node._saved_result2.unsqueeze(2)
        normal: Tensor = ((groups - mean) * scale).reshape(inputs.shape)
        return normal


class BatchNorm(ChannelNorm):
    """Normalises by running statistics."""

    nodes: ClassVar[tuple[str, ...]] = ("NativeBatchNormBackward0",)

    def serves(self, node: Any) -> bool:
        """Not by those of the batch."""
        return not node._saved_training

    def normal(self, node: Any) -> Tensor:
        """By the running statistics that the node has saved."""
        found: Tensor = torch.nn.functional.batch_norm(
            node._saved_input.detach(),
            node._saved_running_mean,
            node._saved_running_var,
            eps=node._saved_eps,
        )
        return found


class ParametricRelu(Operation):
    """``max(x, 0) + w min(x, 0)``."""

    nodes: ClassVar[tuple[str, ...]] = ("PreluKernelBackward0",)

    def use(self, node: Any, position: int, shape: Sequence[int]) -> TensorUse | None:
        """The sums of the gradient times what is negative of the input."""
        if position != 1:
            return None
        negative, own = node._saved_self.detach().clamp(max=0), tuple(shape)

        def make(target: Tensor, gradient: Tensor, layout: Layout, _: bool) -> Factors:
            return summed(target, gradient * negative, layout, own)

        shared = tuple(d for d, size in enumerate(own) if size == 1)
        return TensorUse(shared, make)


NORMALISING: tuple[Operation, ...] = (LayerNorm(), GroupNorm(), BatchNorm(), ParametricRelu())
