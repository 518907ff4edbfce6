"""PCGrad: from each gradient, what conflicts with another is projected away."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from jdframework.bases import GramianWeighting, Randomised, SeededConfig
from jdframework.config import Paper
from jdframework.linalg import on_host
from jdframework.linalg.unit_problem import unit_rows

__all__ = ["PCGrad", "PCGradConfig"]

Array = NDArray[np.float64]
Orders = NDArray[np.int64]


class PCGradConfig(SeededConfig):
    """Settings of PCGrad."""

    reduction: Literal["sum", "mean"] = Field(
        "sum", description="Whether the projected gradients are summed or averaged."
    )


class PCGrad(Randomised, GramianWeighting):
    """Projects each gradient off the others that it conflicts with, one by one, and sums up.

    .. math::
        u_i \\leftarrow g_i, \\qquad
        u_i \\leftarrow u_i - \\frac{\\min(u_i \\cdot g_j, 0)}{\\lVert g_j \\rVert^2} g_j
        \\quad \\text{for all } j \\neq i \\text{ in random order}, \\qquad
        d = \\sum_i u_i

    (Yu et al. 2020, Algorithm 1.) Each ``i`` has an order of its own, drawn anew at every call; the
    authors' code discards its shuffle, and others share one order. All ``u_i`` take a step at
    once, which gives the same numbers as one after the other. With two objectives the update
    conflicts with neither; with more, a later projection can bring an earlier conflict back. A
    zero gradient conflicts with nothing.

    :param reduction: ``"sum"`` of the ``u_i``, or their ``"mean"``.
    :param seed: Seed of the method's own generator, whose state is saved with ``state_dict()``.
        None draws from torch's global generator.

    >>> import torch
    >>> PCGrad(seed=0)(torch.tensor([[1.0, -1.0], [-1.0, 4.0]]))
    tensor([2.0000, 1.2500])
    """

    Config: ClassVar[type[SeededConfig]] = PCGradConfig
    config: PCGradConfig
    paper = Paper(
        title="Gradient Surgery for Multi-Task Learning",
        authors="Tianhe Yu, Saurabh Kumar, Abhishek Gupta, Sergey Levine, Karol Hausman, "
        "Chelsea Finn",
        venue="NeurIPS",
        year=2020,
        url="https://arxiv.org/abs/2001.06782",
    )

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """The weights whose combination is the sum of the projected gradients."""
        m = len(gramian)
        weights = on_host(partial(_summed, self.orders(m).numpy()), gramian, shape=(m,))
        return weights / m if self.config.reduction == "mean" else weights


def _summed(orders: Orders, gramian: Array) -> Array:
    """The sum of the projected gradients, in terms of the gradients."""
    cosines, norms = unit_rows(gramian)
    projected = _projected(orders, cosines)
    ratios = np.divide(norms[:, None], norms, out=np.eye(len(norms)), where=norms > 0)
    return np.asarray((projected * ratios).sum(axis=0))


def _projected(orders: Orders, cosines: Array) -> Array:
    """Row ``i``: the projected ``g_i / |g_i|``, in terms of the unit gradients."""
    projected = np.eye(len(cosines))
    rows = np.arange(len(cosines))
    space = np.empty_like(cosines)  # fresh memory in every turn can cost ten times the turn
    for others in orders.T:
        np.take(cosines, others, axis=0, out=space, mode="clip")
        products = np.einsum("ik,ik->i", projected, space)
        projected[rows, others] -= np.minimum(products, 0.0)
    return projected
