"""Group norm."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from jd_plugin_autogram.rules.base import Use
from jd_plugin_autogram.rules.per_channel import (
    PerChannel,
    sums_of_groups,
)


class GroupNorm(PerChannel):
    """Normalises groups of channels of one instance."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.GroupNorm,)
    parameters: ClassVar[frozenset[str]] = frozenset({"weight", "bias"})

    def sums(self, use: Use) -> tuple[Float[Tensor, "k N C"], Float[Tensor, "k N C"]]:
        """``Σ_t B ∘ x̂`` and ``Σ_t B`` of each image."""
        return sums_of_groups(use, use.layer.num_groups)
