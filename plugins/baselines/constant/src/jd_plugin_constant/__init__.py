"""Fixed weights, chosen by the user."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import BaseMethod, GramianWeighting, Scalarizer
from jdframework.config import Config, PerLoss
from jdframework.protocols.names import Need

__all__ = ["Constant", "ConstantConfig", "ConstantWeighting"]


class ConstantConfig(Config):
    """Settings of the fixed weights."""

    weights: PerLoss = Field(
        description="One weight per objective, of any sign, as a list or in the losses' shape.",
        examples=[[0.7, 0.3]],
    )


class _FixedWeights(BaseMethod):
    """Keeps the weights as a buffer, which follows ``.to(device)``."""

    Config = ConstantConfig
    config: ConstantConfig

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_constant("weights", self.config.weights)


class ConstantWeighting(_FixedWeights, GramianWeighting):
    """Weights the objectives by fixed numbers.

    .. math:: a = w

    The aggregator is differentiable in ``J``.

    :param weights: ``w``, one number per objective, in the order of
        ``losses.flatten()`` or in the losses' shape.
    :raises ConfigError: at the call, if there are more or fewer objectives than weights.

    >>> import torch
    >>> ConstantWeighting(weights=[1.0, 0.5])(torch.eye(2))
    tensor([1.0000, 0.5000])
    """

    differentiable = True
    needs: frozenset[Need] = frozenset()

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """``w``."""
        return self.constant("weights", len(gramian), gramian)


class Constant(_FixedWeights, Scalarizer):
    """Takes the weighted sum of the losses, by fixed weights.

    .. math:: \\sum_i w_i L_i

    The same step as the weighting ``constant``, for one ordinary backward pass.

    :param weights: ``w``, one number per loss, in the order of ``losses.flatten()`` or in the
        losses' shape: as nested lists, a tensor, or one number for a single loss.
    :raises ConfigError: at the call, if there are more or fewer losses than weights, or their
        shapes differ.

    >>> import torch
    >>> Constant(weights=[1.0, 0.5])(torch.tensor([2.0, 4.0]))
    tensor(4.)
    """

    fixed_weights: ClassVar[bool] = True

    def forward(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """``w · L``."""
        return self.constant("weights", losses.numel(), losses, losses.shape) @ losses.flatten()
