"""PBI: the distance along a preference, and a penalty on the distance from it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import Scalarizer
from jdframework.config import Config, Paper, PerLoss, Preference

__all__ = ["PBI", "PBIConfig"]


class PBIConfig(Config):
    """Settings of the penalty-based boundary intersection."""

    theta: float = Field(
        5.0,
        ge=0,
        description="Penalty on the distance from the preferred direction.",
    )
    weights: Preference | None = Field(
        None,
        description="Preferred direction, one number of at least zero per loss, as a list or in "
        "the losses' shape; None prefers none.",
    )
    reference: PerLoss | None = Field(
        None,
        description="Ideal point, a lower bound for each loss, likewise; None is zero.",
    )


class PBI(Scalarizer):
    """Takes the distance along a preferred direction, and penalises the distance from it.

    .. math:: d_1 + \\theta d_2, \\quad d_1 = (L - z) \\cdot \\hat w, \\quad
              d_2 = \\lVert (L - z) - d_1 \\hat w \\rVert

    The penalty-based boundary intersection (Zhang & Li 2007); the hat is a division by the norm.
    Where the losses lie on the direction, up to rounding, ``d_2`` is zero and so is the derivative
    that this takes for it, the middle of its subdifferential. torchjd adds 1e-12 under the root
    instead, which swamps ``d_2`` for losses below 1e-6. libmoon leaves ``z`` out (E20).

    With a large ``theta``, a derivative may be negative: that loss is made to grow, towards the
    direction. The optimum need not be Pareto optimal.

    :param theta: The penalty, at least zero. The paper takes 5.
    :param weights: ``w``, in the order of ``losses.flatten()`` or in the losses' shape; ``1/m``
        each when None. It may also be assigned between two calls, to draw another preference:
        ``method.weights = torch.tensor(...)``.
    :param reference: ``z``, likewise; zero when None.
    :raises ConfigError: at the call, if there are more or fewer losses than weights or entries of
        the reference, or their shapes differ.

    >>> import torch
    >>> PBI(theta=5.0, weights=[0.0, 2.0])(torch.tensor([1.0, 3.0]))
    tensor(8.)
    """

    Config = PBIConfig
    config: PBIConfig
    assignable: ClassVar[frozenset[str]] = frozenset({"weights", "reference"})
    weights: Tensor | None
    reference: Tensor | None
    paper = Paper(
        title="MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition",
        authors="Qingfu Zhang, Hui Li",
        venue="IEEE Transactions on Evolutionary Computation",
        year=2007,
        url="https://doi.org/10.1109/TEVC.2007.892759",
    )

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_constant("weights", self.config.weights)
        self.register_constant("reference", self.config.reference)

    def forward(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """``d_1 + theta d_2``."""
        point = losses.flatten()
        if self.reference is not None:
            point = point - self.constant("reference", losses.numel(), losses, losses.shape)
        weights = self.preference("weights", losses)
        weights = weights / _size(weights)
        direction = weights / torch.linalg.vector_norm(weights)
        size = _size(point)  # the square of a float32 is lost below 1e-22 and above 1e19
        point = point / size
        along = point @ direction
        perpendicular = point - along * direction
        perpendicular = torch.where(_is_rounding(perpendicular, point), 0, perpendicular)
        distance = torch.linalg.vector_norm(perpendicular)
        value: Tensor = size * (along + self.config.theta * distance)
        return value


def _size(vector: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """The greatest absolute value, or one if all are zero."""
    greatest = vector.detach().abs().max()
    return torch.where(greatest == 0, 1, greatest)


@torch.no_grad()
def _is_rounding(perpendicular: Float[Tensor, " m"], point: Float[Tensor, " m"]) -> Tensor:
    """Whether what is left of ``point`` beside its direction is no more than rounding errors."""
    norm = torch.linalg.vector_norm
    error = (point.numel() ** 0.5 + 8) * torch.finfo(point.dtype).eps
    negligible: Tensor = norm(perpendicular) <= error * norm(point)
    return negligible
