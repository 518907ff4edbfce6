"""Group norm in the place of batch norm, for one loss per instance."""

from __future__ import annotations

import math
from typing import Final

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_GROUPS: Final = 32


def replace_batch_norm(model: nn.Module, groups: int = _GROUPS) -> nn.Module:
    """Replaces every batch norm of a model by a group norm, with the same affine parameters.

    Batch norm in training mode mixes the instances of a batch, so that with one loss per instance
    no cheap engine can serve it. Group norm (Wu & He 2018) normalises each instance alone. The
    model has to be trained again: the two do not compute the same. Call it before ``jd.Descent``
    is made; an optimizer that exists keeps its parameters.

    :param model: Any; it is changed in place.
    :param groups: How many groups a layer has at most; fewer, where the channels cannot be divided
        into as many of at least two.
    :return: The model; the new layer, if it is itself a batch norm.
    :raises ValueError: if ``groups`` is not positive.

    >>> from torch import nn
    >>> model = replace_batch_norm(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    >>> type(model[1]).__name__, model[1].num_groups
    ('GroupNorm', 4)
    """
    if groups < 1:
        raise ValueError(f"groups = {groups} was given, but it is a positive number")
    if isinstance(model, _BatchNorm):
        return _group_norm(model, groups)
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, _BatchNorm):
                if child not in replaced:
                    replaced[child] = _group_norm(child, groups)
                parent._modules[name] = replaced[child]
    return model


def _group_norm(layer: _BatchNorm, groups: int) -> nn.GroupNorm:
    channels = layer.num_features
    number = math.gcd(groups, channels)
    if channels == number > 1:  # a group of one number alone would be normalised to zero
        number = max(d for d in range(1, channels // 2 + 1) if channels % d == 0)
    found = nn.GroupNorm(number, channels, layer.eps, affine=False)
    found.affine = layer.affine
    found.weight, found.bias = layer.weight, layer.bias
    return found.train(layer.training)
