"""Which rule serves which layer type: ours, and those that installed distributions offer."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from torch import nn

from jd_plugin_autogram.offered import offered
from jd_plugin_autogram.rules.base import Rule
from jd_plugin_autogram.rules.batch_norm import BatchNorm
from jd_plugin_autogram.rules.convolution import Convolution
from jd_plugin_autogram.rules.embedding import Embedding
from jd_plugin_autogram.rules.embedding_bag import EmbeddingBag
from jd_plugin_autogram.rules.group_norm import GroupNorm
from jd_plugin_autogram.rules.instance_norm import InstanceNorm
from jd_plugin_autogram.rules.layer_norm import LayerNorm
from jd_plugin_autogram.rules.linear import Linear
from jd_plugin_autogram.rules.recurrent import Recurrent
from jd_plugin_autogram.rules.recurrent_cell import Cell

GROUP: Final = "jdframework.gramian_rules"
"""The entry-point group by which a distribution offers a rule for its own layer types."""

_OURS: Final[tuple[Rule, ...]] = (
    BatchNorm(),
    Cell(),
    Convolution(),
    Embedding(),
    EmbeddingBag(),
    GroupNorm(),
    InstanceNorm(),
    LayerNorm(),
    Linear(),
    Recurrent(),
)


@lru_cache(maxsize=1)
def rules() -> dict[type[nn.Module], Rule]:
    """Every rule by layer type; an installed one goes before ours."""
    return {layer: rule for rule in (*_OURS, *offered(GROUP, "Gramian")) for layer in rule.layers}


def rule_for(layer: nn.Module) -> Rule:
    """The rule of the layer's own type.

    :param layer: One of a type that has a rule.
    """
    return rules()[type(layer)]
