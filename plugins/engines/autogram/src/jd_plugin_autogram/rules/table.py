"""Which rule serves which layer type: ours, and those that installed distributions offer."""

from __future__ import annotations

import importlib.metadata
from functools import lru_cache
from typing import Final

from torch import nn

from jd_plugin_autogram.rules.base import Rule
from jd_plugin_autogram.rules.conv import Convolution, TransposedConvolution
from jd_plugin_autogram.rules.embedding import Embedding
from jd_plugin_autogram.rules.generic import Generic
from jd_plugin_autogram.rules.linear import Linear
from jd_plugin_autogram.rules.norm import BatchNorm, GroupNorm, LayerNorm
from jd_plugin_autogram.rules.opaque import Opaque

GROUP: Final = "jdframework.gramian_rules"
"""The entry-point group by which a distribution offers a rule for its own layer types."""

_OURS: Final[tuple[Rule, ...]] = (
    BatchNorm(),
    Convolution(),
    Embedding(),
    GroupNorm(),
    LayerNorm(),
    Linear(),
    Opaque(),
    TransposedConvolution(),
)
_GENERIC: Final = Generic()


@lru_cache(maxsize=1)
def rules() -> dict[type[nn.Module], Rule]:
    """Every rule by layer type; an installed one goes before ours."""
    offered = [entry.load()() for entry in importlib.metadata.entry_points(group=GROUP)]
    return {layer: rule for rule in (*_OURS, *offered) for layer in rule.layers}


def rule_for(layer: nn.Module) -> Rule:
    """The rule of the layer's own type; the generic one where there is none."""
    return rules().get(type(layer), _GENERIC)
