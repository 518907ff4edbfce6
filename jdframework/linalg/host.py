"""Small problems are solved on the host, in float64, with one transfer each way."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor

from jdframework.linalg.threads import calm
from jdframework.linalg.unit_problem import Array

_PATIENCE: Final = 5.0
"""Seconds of a problem from which on it is said, once, what takes less."""
_told: set[str] = set()


def on_host(
    solve: Callable[..., Array], gramian: Tensor, *others: Tensor, shape: tuple[int, ...]
) -> Tensor:
    """``solve(gramian, *others)`` in NumPy float64; the result has the Gramian's dtype and device.

    :param solve: Takes and returns arrays.
    :param gramian: ``[m, m]``; its lower half is taken, for a product of matrices may round the
        two halves differently, and their mean would have more digits than either.
    :param others: Further arguments; they travel with the Gramian, in one transfer.
    :param shape: The result's shape; where an input is not finite, it is filled with NaN.
    """
    first, *rest = _arrays(gramian, *others)
    if all(np.isfinite(array).all() for array in (first, *rest)):
        if not (first == first.T).all():
            first = np.tril(first) + np.tril(first, -1).T
        start = time.perf_counter()
        with calm(len(first)):
            result = solve(first, *rest)
        if time.perf_counter() - start > _PATIENCE:
            _tell(len(first), time.perf_counter() - start)
    else:
        result = np.full(shape, np.nan)
    return torch.from_numpy(np.ascontiguousarray(result)).to(gramian.dtype).to(gramian.device)


def _tell(m: int, seconds: float) -> None:
    """Warns of a problem that takes long, once in a process."""
    if _told:
        return
    _told.add("slow")
    warnings.warn(
        f"the weights of {m} objectives took {seconds:.0f} s to compute, which every step waits "
        "for: take fewer objectives, such as the means of groups of losses; for 'upgrad' and "
        "'dual-proj', reg_eps=1e-4 is quicker where gradients are dependent",
        UserWarning,
        stacklevel=2,
    )


def _arrays(*tensors: Tensor) -> list[Array]:
    device = tensors[0].device
    if device.type == "cpu":
        return [tensor.detach().to("cpu", torch.float64).numpy() for tensor in tensors]
    flat = torch.cat([tensor.detach().to(device).flatten() for tensor in tensors])
    parts = np.split(
        flat.cpu().to(torch.float64).numpy(), np.cumsum([t.numel() for t in tensors])[:-1]
    )
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
