"""Pseudo-inverses of Gramians, with a tolerance relative to their own scale."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def pseudo_solve(
    gramian: Float[Tensor, "m m"], right: Float[Tensor, " m"], tolerance: float | None = None
) -> Float[Tensor, " m"]:
    """``G⁺ r``, by the eigenvalues of ``G``.

    :param gramian: Symmetric and positive semi-definite, ``[m, m]``.
    :param right: ``r`` ``[m]``.
    :param tolerance: Eigenvalues up to this share of the largest count as zero; by default ``m``
        times the precision of the dtype.

    >>> pseudo_solve(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([1.0, 1.0]))
    tensor([0.5000, 0.5000])
    """
    if tolerance is None:
        tolerance = len(gramian) * torch.finfo(gramian.dtype).eps
    if not bool(torch.isfinite(gramian).all()):
        return torch.full_like(right, torch.nan)
    values, vectors = torch.linalg.eigh(gramian)
    kept = values > tolerance * values[-1].clamp(min=0.0)
    inverse = torch.where(kept, 1 / values.where(kept, torch.ones_like(values)), 0.0)
    return vectors @ (inverse * (vectors.T @ right))
