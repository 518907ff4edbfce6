"""Trimmed mean: per coordinate, the mean without the largest and the smallest values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import Aggregator
from jdframework.config import Config, Paper
from jdframework.errors import ConfigError

__all__ = ["TrimmedMean", "TrimmedMeanConfig"]


class TrimmedMeanConfig(Config):
    """Settings of the trimmed mean."""

    trim_number: int = Field(
        ge=0,
        description="t: how many of the largest and of the smallest values of each coordinate are "
        "left out. Needs 2 t + 1 objectives.",
        examples=[0],
    )


class TrimmedMean(Aggregator):
    """Averages each coordinate without its largest and its smallest values.

    .. math::
        d_k = \\frac{1}{m - 2t} \\sum_{i=t+1}^{m-t} J_{(i)k}

    with :math:`J_{(1)k} \\le \\dots \\le J_{(m)k}` the sorted values of coordinate ``k`` (Yin et
    al. 2018, definition 2, whose share :math:`\\beta` is :math:`t/m`). Up to ``t`` gradients may
    be arbitrary without the mean following them, infinite or NaN included: NaN counts as larger
    than everything. The values left out take no part in the sum at all; blades adds and then
    subtracts them, which is wrong for large ones and NaN for infinite ones. It is
    differentiable in ``J``, but where values on the border of the trimming are equal.

    :param trim_number: ``t``; 0 is the mean.
    :raises ConfigError: at the call, if there are fewer than ``2 t + 1`` objectives.

    >>> import torch
    >>> TrimmedMean(trim_number=1)(torch.tensor([[1.0, 5.0], [2.0, -9.0], [3e9, 7.0], [4.0, 6.0]]))
    tensor([3.0000, 5.5000])
    """

    differentiable = True
    Config = TrimmedMeanConfig
    config: TrimmedMeanConfig
    column_wise: ClassVar[bool] = True
    claims: ClassVar[Mapping[str, Any]] = {"robust": True}
    paper = Paper(
        title="Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
        authors="Dong Yin, Yudong Chen, Kannan Ramchandran, Peter Bartlett",
        venue="ICML",
        year=2018,
        url="https://arxiv.org/abs/1803.01498",
    )

    def forward(self, jacobian: Float[Tensor, "m n"], /) -> Float[Tensor, " n"]:
        """The mean of the values in the middle of each column."""
        m, trimmed = len(jacobian), self.config.trim_number
        if m < 2 * trimmed + 1:
            raise ConfigError(
                f"trimmed-mean: trim_number = {trimmed} needs at least 2 * {trimmed} + 1 = "
                f"{2 * trimmed + 1} objectives, but there are {m}; take a smaller trim_number"
            )
        if trimmed == 0:
            return jacobian.mean(dim=0)
        return jacobian.sort(dim=0).values[trimmed : m - trimmed].mean(dim=0)
