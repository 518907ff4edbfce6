"""MGDA: the direction of smallest norm among all convex combinations of the gradients."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from jdframework.bases import GramianWeighting
from jdframework.config import Paper
from jdframework.linalg import min_norm_weights

__all__ = ["MGDA"]


class MGDA(GramianWeighting):
    """Takes the shortest vector in the convex hull of the gradients.

    .. math::
        a = \\operatorname*{argmin}_{a \\ge 0,\\ \\mathbf{1}^\\top a = 1} a^\\top G a

    Its inner product with every gradient is at least its own squared norm, so it decreases all
    losses, and it is zero exactly at Pareto-stationary points (Désidéri 2012, Theorem 2.2). It
    is solved by an active-set method to a relative duality gap of 1e-9 or better, where other
    implementations stop a Frank-Wolfe iteration early, up to 9 % above the optimum. The solution
    follows the smallest gradient: an objective whose gradient vanishes stops the others.

    :raises SolverError: if the problem cannot be solved to the promised precision.

    >>> import torch
    >>> MGDA()(torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    tensor([0.8000, 0.2000])
    """

    paper = Paper(
        title="Multiple-gradient descent algorithm (MGDA) for multiobjective optimization",
        authors="Jean-Antoine Désidéri",
        venue="Comptes Rendus Mathematique",
        year=2012,
        url="https://doi.org/10.1016/j.crma.2012.03.014",
    )

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """The weights of the min-norm point, on the probability simplex."""
        return min_norm_weights(gramian)
