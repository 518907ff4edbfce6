"""Layer norm and RMS norm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from jd_plugin_autogram.factors import by_objective
from jd_plugin_autogram.recording import Call
from jd_plugin_autogram.rules.base import Rule, Use


class LayerNorm(Rule):
    """``y = x̂ ∘ w + b``, one ``w`` per entry of the normalised shape; RMSNorm likewise."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.LayerNorm, nn.RMSNorm)
    parameters: ClassVar[frozenset[str]] = frozenset({"weight", "bias"})

    def rows(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Tensor]:
        """``Σ_t B ∘ x̂`` and ``Σ_t B``."""
        layer, gradient = use.layer, use.gradient
        shape = tuple(layer.normalized_shape)
        features = len(shape)
        gradients = use.gradient_positions(features)
        found = []
        for p in wanted:
            if p is layer.weight:
                normal = _normalised(layer, use.input.to(gradient.dtype), shape)
                product = gradients * use.input_positions(normal, features)
                found.append(by_objective(product.sum(2)))
            else:
                found.append(by_objective(gradients.sum(2)))
        return found

    def instance_dims(self, layer: Any, shape: Sequence[int]) -> Iterable[int]:
        """All but those that are normalised."""
        return range(len(shape) - len(layer.normalized_shape))

    def joins(self, call: Call) -> bool:
        """Where the first dimension is not normalised."""
        layer: Any = call.layer
        return call.tensors[0].ndim > len(layer.normalized_shape)


def _normalised(layer: Any, inputs: Tensor, shape: tuple[int, ...]) -> Tensor:
    if isinstance(layer, nn.LayerNorm):
        return functional.layer_norm(inputs, shape, None, None, layer.eps)
    return functional.rms_norm(inputs, shape, None, layer.eps)
