"""Instance norm, in one, two and three dimensions."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from jd_plugin_autogram.recording import Call
from jd_plugin_autogram.rules.base import Use
from jd_plugin_autogram.rules.per_channel import (
    PerChannel,
    sums_by_statistics,
    sums_of_groups,
)


class InstanceNorm(PerChannel):
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
            return sums_of_groups(use, use.input.shape[1])
        return sums_by_statistics(use)

    def serves(self, call: Call) -> bool:
        """Not if the running statistics that the call used have changed, nor one image alone."""
        layer: Any = call.layer
        batched = layer._get_no_batch_dim() + 1
        given = call.args[0] if call.args else next(iter(call.kwargs.values()))
        return given.ndim == batched and (call.training or not call.state_changed)
