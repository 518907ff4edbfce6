"""COSMOS: the weighted sum of the losses, less their cosine with a preference."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import Scalarizer
from jdframework.config import Config, Paper, Preference

__all__ = ["COSMOS", "COSMOSConfig"]


class COSMOSConfig(Config):
    """Settings of COSMOS."""

    lambda_: float = Field(
        ge=0,
        description="How much the cosine between losses and preference is rewarded.",
        examples=[2.0],
    )
    weights: Preference | None = Field(
        None,
        description="Preference, one number of at least zero per loss, as a list or in the losses' "
        "shape; None gives each 1/m.",
    )


class COSMOS(Scalarizer):
    """Takes the weighted sum of the losses, less a multiple of their cosine with the weights.

    .. math:: w \\cdot L - \\lambda \\frac{w \\cdot L}{\\lVert w \\rVert \\lVert L \\rVert}

    The objective of COSMOS (Ruchte & Grabocka 2021). The paper draws ``w`` from a Dirichlet
    distribution in each step, and gives it to the model as a further input, so that one model
    learns the whole Pareto front; both are the caller's. Assign the drawn weights between two
    calls: ``method.weights = torch.distributions.Dirichlet(torch.ones(m)).sample()``.

    The cosine is exact for losses of any size, where torchjd's shrinks once the norms fall below
    1e-8. If all losses are zero, the cosine counts as zero and has no derivative.

    :param lambda_: The reward, at least zero. The paper takes 0.01 to 8, by data set.
    :param weights: ``w``, in the order of ``losses.flatten()`` or in the losses' shape; ``1/m``
        each when None.
    :raises ConfigError: at the call, if there are more or fewer losses than weights, or their
        shapes differ.

    >>> import torch
    >>> COSMOS(lambda_=2.0, weights=[0.0, 1.0])(torch.tensor([3.0, 4.0]))
    tensor(2.4000)
    """

    Config = COSMOSConfig
    config: COSMOSConfig
    assignable: ClassVar[frozenset[str]] = frozenset({"weights"})
    weights: Tensor | None
    paper = Paper(
        title="Scalable Pareto Front Approximation for Deep Multi-Objective Learning",
        authors="Michael Ruchte, Josif Grabocka",
        venue="ICDM",
        year=2021,
        url="https://arxiv.org/abs/2103.13392",
    )

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_constant("weights", self.config.weights)

    def forward(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """``w · L - lambda cos(w, L)``."""
        weights = self.preference("weights", losses)
        cosine = _unit(weights) @ _unit(losses.flatten())
        return weights @ losses.flatten() - self.config.lambda_ * cosine


def _unit(vector: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """``vector`` over its norm; zero stays zero, and has no derivative."""
    scaled = vector / _unless_zero(vector.detach().abs().max())
    norm: Tensor = torch.linalg.vector_norm(scaled)
    return torch.where(norm == 0, 0, scaled / _unless_zero(norm))


def _unless_zero(divisor: Float[Tensor, ""]) -> Float[Tensor, ""]:
    return torch.where(divisor == 0, 1, divisor)
