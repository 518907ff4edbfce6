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
        times the precision of the Gramian's dtype.
    :return: In the dtype of ``right``; NaN where an input is not finite.

    >>> pseudo_solve(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([1.0, 1.0]))
    tensor([0.5000, 0.5000])
    """
    if tolerance is None:
        tolerance = len(gramian) * torch.finfo(gramian.dtype).eps
    dtype = torch.promote_types(torch.promote_types(gramian.dtype, right.dtype), torch.float32)
    if not bool(torch.isfinite(gramian).all()):
        return torch.full_like(right, torch.nan)
    values, vectors = torch.linalg.eigh(gramian.to(dtype))
    kept = values > tolerance * values[-1].clamp(min=0.0)
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    solution: Tensor = vectors @ (inverse * (vectors.T @ right.to(dtype)))
    return solution.to(right.dtype)


def carried_precision(gramian: Float[Tensor, "m m"]) -> float:
    """The relative rounding error that the entries carry, whatever the dtype they come in.

    A Gramian computed in single precision keeps its errors when it is widened. It is known by its
    entries, which are all numbers of single precision.

    :param gramian: ``[m, m]``.

    >>> carried_precision(torch.tensor([[0.1]], dtype=torch.float64))
    2.220446049250313e-16
    >>> carried_precision(torch.tensor([[0.1]]).double())
    1.1920928955078125e-07
    """
    if gramian.dtype == torch.float64 and torch.equal(gramian.float().double(), gramian):
        return torch.finfo(torch.float32).eps
    return torch.finfo(gramian.dtype).eps
