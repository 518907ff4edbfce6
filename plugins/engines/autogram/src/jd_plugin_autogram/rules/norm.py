"""Layers that normalise, with an affine map after it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from jd_plugin_autogram.pieces import by_objective
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


class _PerChannel(Rule, ABC):
    """``y = x̂ ∘ w + b``, one ``w`` per channel."""

    def rows(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Tensor]:
        """``Σ_t B ∘ x̂`` and ``Σ_t B``, per channel."""
        scaled = any(p is use.layer.weight for p in wanted)
        scales, shifts = self.sums(use) if scaled else (None, _summed(use.gradient))
        found = []
        for p in wanted:
            sums = scales if p is use.layer.weight else shifts
            assert sums is not None
            split = use.layout.split(sums, 1)
            found.append(by_objective(split.flatten(2, -2).sum(2)))
        return found

    @abstractmethod
    def sums(self, use: Use) -> tuple[Float[Tensor, "k N C"], Float[Tensor, "k N C"]]:
        """``Σ_t B ∘ x̂`` and ``Σ_t B`` of each image."""


class GroupNorm(_PerChannel):
    """Normalises groups of channels of one instance."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.GroupNorm,)
    parameters: ClassVar[frozenset[str]] = frozenset({"weight", "bias"})

    def sums(self, use: Use) -> tuple[Float[Tensor, "k N C"], Float[Tensor, "k N C"]]:
        """``Σ_t B ∘ x̂`` and ``Σ_t B`` of each image."""
        return _sums_of_groups(use, use.layer.num_groups)


class BatchNorm(_PerChannel):
    """Normalises channels, with the statistics that the call used.

    Statistics of the batch make every output depend on every instance: that is right for tasks,
    and the engine refuses it for instances.
    """

    layers: ClassVar[tuple[type[nn.Module], ...]] = (
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.BatchNorm3d,
        nn.SyncBatchNorm,
    )
    parameters: ClassVar[frozenset[str]] = frozenset({"weight", "bias"})

    def sums(self, use: Use) -> tuple[Float[Tensor, "k N C"], Float[Tensor, "k N C"]]:
        """``Σ_t B ∘ x̂`` and ``Σ_t B`` of each image."""
        layer = use.layer
        if not use.training and layer.running_mean is not None:
            return _sums_by_statistics(use)
        normalised = functional.batch_norm(_cast(use), None, None, training=True, eps=layer.eps)
        return _summed(use.gradient * normalised), _summed(use.gradient)

    def serves(self, call: Call) -> bool:
        """Not if the running statistics that the call used have changed."""
        return call.training or not call.state_changed


class InstanceNorm(_PerChannel):
    """Normalises channels of one instance, or by running statistics."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (
        nn.InstanceNorm1d,
        nn.InstanceNorm2d,
        nn.InstanceNorm3d,
    )
    parameters: ClassVar[frozenset[str]] = frozenset({"weight", "bias"})

    def sums(self, use: Use) -> tuple[Float[Tensor, "k N C"], Float[Tensor, "k N C"]]:
        """``Σ_t B ∘ x̂`` and ``Σ_t B`` of each image."""
        if use.training or use.layer.running_mean is None:
            return _sums_of_groups(use, use.input.shape[1])
        return _sums_by_statistics(use)

    def serves(self, call: Call) -> bool:
        """Not if the running statistics that the call used have changed, nor one image alone."""
        layer: Any = call.layer
        batched = layer._get_no_batch_dim() + 1
        given = call.args[0] if call.args else next(iter(call.kwargs.values()))
        return given.ndim == batched and (call.training or not call.state_changed)


def _summed(tensor: Float[Tensor, "k N C *positions"]) -> Float[Tensor, "k N C"]:
    return tensor.flatten(3).sum(3) if tensor.ndim > 3 else tensor


def _cast(use: Use) -> Tensor:
    """The input in the precision in which the layer computed."""
    return use.input.to(use.gradient.dtype)


def _sums_by_statistics(use: Use) -> tuple[Float[Tensor, "k N C"], Float[Tensor, "k N C"]]:
    """``Σ_t B ∘ x̂`` and ``Σ_t B`` where running statistics normalise."""
    layer = use.layer
    normalised = functional.batch_norm(
        _cast(use), layer.running_mean, layer.running_var, eps=layer.eps
    )
    return _summed(use.gradient * normalised), _summed(use.gradient)


def _sums_of_groups(use: Use, groups: int) -> tuple[Float[Tensor, "k N C"], Float[Tensor, "k N C"]]:
    """``Σ_t B ∘ x̂`` and ``Σ_t B`` without ``x̂``: the images side by side, as if channels."""
    gradient, inputs = use.gradient, _cast(use)
    count, channels = inputs.shape[:2]
    length = inputs[0, 0].numel()
    sizes = 1, count * channels, length, count * groups
    flat = inputs.reshape(1, count * channels, length).contiguous()
    _, mean, scale = torch.native_group_norm(flat, None, None, *sizes, use.layer.eps)
    ones = inputs.new_ones(count * channels)
    found = [
        torch.ops.aten.native_group_norm_backward(
            g.reshape(flat.shape).contiguous(), flat, mean, scale, ones, *sizes, (False, True, True)
        )[1:]
        for g in gradient.unbind()
    ]
    scales, shifts = zip(*found, strict=True)
    shape = len(gradient), count, channels
    return torch.stack(scales).reshape(shape), torch.stack(shifts).reshape(shape)


def _normalised(layer: Any, inputs: Tensor, shape: tuple[int, ...]) -> Tensor:
    if isinstance(layer, nn.LayerNorm):
        return functional.layer_norm(inputs, shape, None, None, layer.eps)
    return functional.rms_norm(inputs, shape, None, layer.eps)
