"""STCH: a smooth maximum of the losses, weighed by a preference."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import Scalarizer
from jdframework.config import Config, Paper, PerLoss, Preference

__all__ = ["STCH", "STCHConfig"]


class STCHConfig(Config):
    """Settings of the smooth Tchebycheff scalarization."""

    mu: float = Field(
        0.01,
        gt=0,
        description="How smooth the maximum is; the smaller, the closer to the maximum itself.",
    )
    weights: Preference | None = Field(
        None,
        description="Preference, one number of at least zero per loss, as a list or in the losses' "
        "shape; None gives each 1/m.",
    )
    reference: PerLoss | None = Field(
        None,
        description="Ideal point, a lower bound for each loss, likewise; None is zero.",
    )


class STCH(Scalarizer):
    """Takes a smooth maximum of the weighed losses.

    .. math:: \\mu \\log \\sum_i \\exp\\bigl(w_i (L_i - z_i) / \\mu\\bigr)

    The smooth Tchebycheff scalarization (Lin et al. 2024). It lies between the maximum and the
    maximum plus ``mu log m``, and the derivative in loss ``i`` is ``w_i`` times its share in a
    softmax. The greatest weighed loss is taken out before the division by ``mu``, so that nothing
    overflows.

    The variant for multi-task learning in LibMTL and in the official code is another method: it
    takes the logarithm of each loss over its mean in a warm-up epoch.

    :param mu: ``mu``, above zero. The paper tries 0.01 to 1; the authors' code takes 0.01, for
        losses from 0 to 1.
    :param weights: ``w``, in the order of ``losses.flatten()`` or in the losses' shape; ``1/m``
        each when None. It may also be assigned between two calls:
        ``method.weights = torch.tensor(...)``.
    :param reference: ``z``, likewise; zero when None.
    :raises ConfigError: at the call, if there are more or fewer losses than weights or entries of
        the reference, or their shapes differ.

    >>> import torch
    >>> STCH(mu=0.01, weights=[1.0, 0.5])(torch.tensor([1.0, 6.0]))
    tensor(3.)
    """

    Config = STCHConfig
    config: STCHConfig
    assignable: ClassVar[frozenset[str]] = frozenset({"weights", "reference"})
    weights: Tensor | None
    reference: Tensor | None
    paper = Paper(
        title="Smooth Tchebycheff Scalarization for Multi-Objective Optimization",
        authors="Xi Lin, Xiaoyuan Zhang, Zhiyuan Yang, Fei Liu, Zhenkun Wang, Qingfu Zhang",
        venue="ICML",
        year=2024,
        url="https://arxiv.org/abs/2402.19078",
    )

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_constant("weights", self.config.weights)
        self.register_constant("reference", self.config.reference)

    def forward(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """``mu log Σ exp(w (L - z) / mu)``."""
        distances = losses.flatten()
        if self.reference is not None:
            distances = distances - self.constant("reference", losses.numel(), losses, losses.shape)
        weighed = self.preference("weights", losses) * distances
        lowest, greatest = torch.aminmax(weighed.detach())
        greatest = greatest + 0 * lowest  # NaN, where the maximum would hide a loss of -inf
        mu = self.config.mu
        return greatest + mu * torch.logsumexp((weighed - greatest) / mu, 0)
