"""Batch norm, in one, two and three dimensions."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from jd_plugin_autogram.recording import Call
from jd_plugin_autogram.rules.base import Use
from jd_plugin_autogram.rules.per_channel import (
    PerChannel,
    channel_sums,
    in_output_dtype,
    sums_by_statistics,
)


class BatchNorm(PerChannel):
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
            return sums_by_statistics(use)
        normalised = functional.batch_norm(
            in_output_dtype(use), None, None, training=True, eps=layer.eps
        )
        return channel_sums(use.gradient * normalised), channel_sums(use.gradient)

    def serves(self, call: Call) -> bool:
        """Not if the running statistics that the call used have changed."""
        return call.training or not call.state_changed
