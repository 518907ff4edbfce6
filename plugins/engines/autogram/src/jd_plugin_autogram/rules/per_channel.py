"""What normalising layers with one weight per channel have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from jd_plugin_autogram.factors import by_objective
from jd_plugin_autogram.rules.base import Rule, Use


class PerChannel(Rule, ABC):
    """``y = x̂ ∘ w + b``, one ``w`` per channel."""

    def rows(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Tensor]:
        """``Σ_t B ∘ x̂`` and ``Σ_t B``, per channel."""
        scaled = any(p is use.layer.weight for p in wanted)
        scales, shifts = self.sums(use) if scaled else (None, channel_sums(use.gradient))
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


def channel_sums(tensor: Float[Tensor, "k N C *positions"]) -> Float[Tensor, "k N C"]:
    """The entries of each image and channel, added over all positions."""
    return tensor.flatten(3).sum(3) if tensor.ndim > 3 else tensor


def in_output_dtype(use: Use) -> Tensor:
    """The input in the precision in which the layer computed."""
    return use.input.to(use.gradient.dtype)


def sums_by_statistics(use: Use) -> tuple[Float[Tensor, "k N C"], Float[Tensor, "k N C"]]:
    """``Σ_t B ∘ x̂`` and ``Σ_t B`` where running statistics normalise."""
    layer = use.layer
    normalised = functional.batch_norm(
        in_output_dtype(use), layer.running_mean, layer.running_var, eps=layer.eps
    )
    return channel_sums(use.gradient * normalised), channel_sums(use.gradient)


def sums_of_groups(use: Use, groups: int) -> tuple[Float[Tensor, "k N C"], Float[Tensor, "k N C"]]:
    """``Σ_t B ∘ x̂`` and ``Σ_t B`` without ``x̂``: the images side by side, as if channels."""
    gradient, inputs = use.gradient, in_output_dtype(use)
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
