"""Layers that normalise, with an affine map after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from jd_plugin_autogram.rules.base import Rule, Use


class LayerNorm(Rule):
    """``y = x̂ ∘ w + b``, one ``w`` per entry of the normalised shape; RMSNorm likewise."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.LayerNorm, nn.RMSNorm)
    positionwise: ClassVar[bool] = True

    def rows(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Tensor]:
        """``Σ_t B ∘ x̂`` and ``Σ_t B``."""
        layer, gradient = use.layer, use.gradient
        shape = tuple(layer.normalized_shape)
        if isinstance(layer, nn.LayerNorm):
            normal = functional.layer_norm(use.inputs[0], shape, None, None, layer.eps)
        else:
            normal = functional.rms_norm(use.inputs[0], shape, None, layer.eps)
        return [
            _per_objective(gradient * normal if p is layer.weight else gradient, shape)
            for p in wanted
        ]


class GroupNorm(Rule):
    """``y = x̂ ∘ w + b``, one ``w`` per channel; InstanceNorm likewise."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (
        nn.GroupNorm,
        nn.InstanceNorm1d,
        nn.InstanceNorm2d,
        nn.InstanceNorm3d,
    )

    def rows(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Tensor]:
        """``Σ_t B ∘ x̂`` and ``Σ_t B``, per channel."""
        layer, inputs = use.layer, use.inputs[0]
        if isinstance(layer, nn.GroupNorm):
            normal = functional.group_norm(inputs, layer.num_groups, None, None, layer.eps)
        else:
            normal = functional.instance_norm(inputs, eps=layer.eps)
        return [
            _per_channel(use.gradient * normal if p is layer.weight else use.gradient, use.shared)
            for p in wanted
        ]

    def refusal(self, layer: Any) -> str | None:
        """Running statistics make the result depend on earlier batches."""
        if getattr(layer, "track_running_stats", False):
            return "it keeps running statistics; construct it with track_running_stats=False"
        return None


class BatchNorm(Rule):
    """``y = x̂ ∘ w + b``, one ``w`` per channel, with the statistics that the call used.

    Statistics of the batch make every output depend on every instance: that is right for tasks,
    and the engine refuses it for instances.
    """

    layers: ClassVar[tuple[type[nn.Module], ...]] = (
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.BatchNorm3d,
    )

    def rows(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Tensor]:
        """``Σ_t B ∘ x̂`` and ``Σ_t B``, per channel."""
        layer, inputs = use.layer, use.inputs[0]
        of_batch = use.training or layer.running_mean is None
        mean, variance = (None, None) if of_batch else (layer.running_mean, layer.running_var)
        normal = functional.batch_norm(inputs, mean, variance, training=of_batch, eps=layer.eps)
        return [
            _per_channel(use.gradient * normal if p is layer.weight else use.gradient, use.shared)
            for p in wanted
        ]


def _per_channel(tensor: Tensor, shared: bool) -> Tensor:
    """Sums ``[m, C, *positions]``, or ``[m, n, C, *positions]``, to ``[m, C]``."""
    by_objective = tensor.sum(1) if shared else tensor
    return by_objective.reshape(*by_objective.shape[:2], -1).sum(2)


def _per_objective(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    m = len(tensor)
    return tensor.reshape(m, -1, *shape).sum(1)
