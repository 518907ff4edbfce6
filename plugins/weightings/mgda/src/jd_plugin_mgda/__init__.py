"""MGDA: the direction of smallest norm among all convex combinations of the gradients."""

from __future__ import annotations

from typing import Any, Final, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import GramianWeighting, losses_for
from jdframework.config import Config, Paper
from jdframework.linalg import min_norm_weights, normalised

__all__ = ["MGDA", "MGDAConfig"]

_SMALLEST_LOSS: Final = 1e-9
"""A loss below this share of the largest counts as that share."""


class MGDAConfig(Config):
    """Settings of MGDA."""

    normalize: Literal["l2", "loss", "loss+"] | None = Field(
        None,
        description="What each gradient is divided by before the problem is solved: its length "
        "('l2'), its loss ('loss'), both ('loss+'), or nothing.",
    )


class MGDA(GramianWeighting):
    """Takes the shortest vector in the convex hull of the gradients.

    .. math::
        a = \\operatorname*{argmin}_{a \\ge 0,\\ \\mathbf{1}^\\top a = 1} a^\\top G a

    Its inner product with every gradient is at least its own squared norm, so it decreases all
    losses, and it is zero exactly at Pareto-stationary points (Désidéri 2012, Theorem 2.2). It
    is solved by an active-set method to a relative duality gap of 1e-9 or better, where other
    implementations stop a Frank-Wolfe iteration early, up to 9 % above the optimum. The solution
    follows the smallest gradient: an objective whose gradient vanishes stops the others.

    ``normalize`` makes the gradients comparable first (Sener & Koltun 2018): each is divided by its
    length, its loss, or both, and the weights that solve that problem are applied to the
    gradients as they are, as in LibMTL. There a zero length or loss gives NaN. Here a zero gradient
    stays zero, and stops the others. A loss of zero counts as 1e-9 of the largest one: that
    gradient is then so long that its weight is nearly zero. Where the rescaled gradients cancel
    out, several weights may solve the problem: one of them is given, and the update is not zero.

    The weights have no derivative with respect to the gradients, and the direction of
    ``jd.aggregator`` has no graph, where torchjd 0.18 differentiates its iterations.

    :param normalize: ``"l2"``, ``"loss"``, ``"loss+"`` or None.
    :raises ValueError: with ``"loss"`` or ``"loss+"``, if it is called without the losses, or one
        of them is negative.
    :raises SolverError: if the problem cannot be solved to the promised precision.

    >>> import torch
    >>> gramian = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    >>> MGDA()(gramian)
    tensor([0.8000, 0.2000])
    >>> MGDA(normalize="l2")(gramian)
    tensor([0.5000, 0.5000])
    >>> MGDA(normalize="loss")(gramian, losses=torch.tensor([1.0, 4.0]))
    tensor([0.2000, 0.8000])

    In a training loop::

        descent = jd.Descent(model, "mgda", normalize="loss+")
        for inputs, targets in loader:
            descent.backward(criterion(model(inputs), targets))
            optimizer.step()
            optimizer.zero_grad()
    """

    Config = MGDAConfig
    config: MGDAConfig
    paper = Paper(
        title="Multiple-gradient descent algorithm (MGDA) for multiobjective optimization",
        authors="Jean-Antoine Désidéri",
        venue="Comptes Rendus Mathematique",
        year=2012,
        url="https://doi.org/10.1016/j.crma.2012.03.014",
    )

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        if self.config.normalize in ("loss", "loss+"):
            self.needs = frozenset({"gramian", "losses"})

    def forward(
        self, gramian: Float[Tensor, "m m"], /, losses: Float[Tensor, " m"] | None = None
    ) -> Float[Tensor, " m"]:
        """The weights of the min-norm point, on the probability simplex."""
        if self.config.normalize in ("l2", "loss+"):
            gramian = normalised(gramian).cosines
        if self.config.normalize in ("loss", "loss+"):
            values = losses_for(self, losses, gramian, negative=False)
            relative = _relative(values)
            gramian = gramian / relative / relative[:, None]
        return min_norm_weights(gramian)


def _relative(losses: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """The losses over the largest one; none of them zero."""
    largest = losses.max()
    return torch.where(largest > 0, losses / largest, 1.0).clamp(min=_SMALLEST_LOSS)
