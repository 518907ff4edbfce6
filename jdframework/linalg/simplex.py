"""The nearest point of the probability simplex."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def simplex_projection(point: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """``argmin ‖a - p‖`` over the probability simplex ``a >= 0, Σ a = 1``.

    The solution is ``max(p - t, 0)`` with the ``t`` that makes its sum one. Of the sorted entries
    the ``k`` largest ask for ``t_k``, their sum less one over ``k``; the largest of those is ``t``
    (Held, Wolfe & Crowder 1974). Adding one number to all entries changes nothing, so the greatest
    is taken out first, and entries of any size cost no digits.

    :param point: ``p`` ``[m]``, at least one entry.
    :return: ``[m]``, in the point's dtype and on its device, without a transfer; NaN where an
        entry is NaN or ``+inf``.

    >>> simplex_projection(torch.tensor([0.9, 0.5, -3.0]))
    tensor([0.7000, 0.3000, 0.0000])
    """
    below = point - point.max()
    ordered = below.sort(descending=True).values
    counts = torch.arange(1, len(point) + 1, device=point.device, dtype=point.dtype)
    threshold = ((ordered.cumsum(0) - 1) / counts).max()
    return (below - threshold).clamp(min=0.0)
