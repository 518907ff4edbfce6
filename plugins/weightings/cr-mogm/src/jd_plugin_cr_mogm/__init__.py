"""CR-MOGM: the weights of any weighting, averaged over the steps."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

import jdframework as jd
from jdframework.bases import Remembering, WeightingWrapper, WrapperConfig, initial_device
from jdframework.config import Paper, PerLoss
from jdframework.errors import ConfigError

__all__ = ["CRMOGM", "CRMOGMConfig"]


class CRMOGMConfig(WrapperConfig):
    """Settings of CR-MOGM."""

    alpha: float = Field(
        0.9,
        ge=0.0,
        le=1.0,
        description="The share of the earlier weights: 0 takes the new ones as they are, 1 keeps "
        "the first ones.",
    )
    initial_weights: PerLoss | None = Field(
        None,
        description="What the average starts from, one weight per objective; the first step's "
        "weights when None.",
    )


class CRMOGM(WeightingWrapper, Remembering):
    """Averages the weights of another weighting over the steps, against their noise.

    .. math::
        \\lambda_k = \\alpha \\lambda_{k-1} + (1 - \\alpha) \\hat\\lambda_k

    where :math:`\\hat\\lambda_k` are the weights that ``inner`` gives at step :math:`k` (Zhou et
    al. 2022). At the first step, :math:`\\lambda_0` is ``initial_weights``, or
    :math:`\\hat\\lambda_1`, which then are the weights.

    What is needed, and what of two batches, follows from ``inner``: ask the instance's ``needs``;
    the class says what most weightings need. The average is detached, and part of
    ``state_dict()`` with ``alpha`` and the state of ``inner``; weights that are not finite do not
    enter it. torchjd 0.18 keeps the graph of every earlier step if the Gramian has one, and its
    state does not load.

    Corollary 1 of the paper lets ``alpha`` rise as the learning rate falls: assign
    ``method.alpha = 1 - lr / first_lr`` between steps.

    :param inner: The weighting: a name, a mapping with settings, or a ready instance.
    :param alpha: The share of the earlier weights.
    :param initial_weights: What the average starts from.
    :raises ConfigError: at the call, if there are other weights than objectives.

    >>> from jdframework import bases
    >>> class Inverse(bases.GramianWeighting):
    ...     def forward(self, gramian):
    ...         return 1 / gramian.diagonal()
    >>> smoothed = CRMOGM(inner=Inverse(), alpha=0.75)
    >>> smoothed(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor([1., 1.])
    >>> smoothed(torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
    tensor([0.8750, 0.8125])
    """

    Config: ClassVar[type[WrapperConfig]] = CRMOGMConfig
    config: CRMOGMConfig
    memory = ("average",)
    paper = Paper(
        title="On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond",
        authors="Shiji Zhou, Wenpeng Zhang, Jiyan Jiang, Wenliang Zhong, Jinjie Gu, Wenwu Zhu",
        venue="NeurIPS",
        year=2022,
        url="https://proceedings.neurips.cc/paper_files/paper/2022/hash/"
        "f91bd64a3620aad8e70a27ad9cb3ca57-Abstract-Conference.html",
    )
    resolve = staticmethod(jd.weighting)

    average: Tensor
    """The last step's weights ``[m]``; ``[0]`` before the first, NaN if all were not finite."""
    kept_share: Tensor
    """``alpha``, as part of the state."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_buffer(
            "kept_share",
            torch.tensor(self.config.alpha, dtype=torch.float64, device=initial_device()),
        )
        self.register_constant("initial_weights", self.config.initial_weights)

    @property
    def alpha(self) -> float:
        """The share of the earlier weights; it can be assigned between steps."""
        return float(self.kept_share)

    @alpha.setter
    def alpha(self, value: float) -> None:
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"{self.name}: alpha = {value!r} was given, but it is within [0, 1]")
        self.kept_share.fill_(value)

    def reset(self) -> None:
        """Forgets the average and an assigned ``alpha``, and resets ``inner``."""
        super().reset()
        Remembering.reset(self)
        self.alpha = self.config.alpha

    def forward(self, statistic: Float[Tensor, "m _"], /, **extra: Tensor) -> Float[Tensor, " m"]:
        """The average of the inner weighting's weights."""
        weights: Tensor = self.inner(statistic, **extra)
        kept = self.recalled("average", torch.full_like(weights, torch.nan))
        previous = torch.where(kept.isnan(), self._initial(weights), kept)
        average = torch.lerp(weights, previous, self.kept_share.to(weights))
        self.average = torch.where(average.isfinite().all(), average, kept)
        return average

    def _initial(self, weights: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        if self.config.initial_weights is None:
            return weights
        return self.constant("initial_weights", len(weights), weights)
