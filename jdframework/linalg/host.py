"""Small problems are solved on the host, in float64, with one transfer each way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from jdframework.linalg.threads import calm
from jdframework.linalg.unit_problem import Array


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
        with calm(len(first)):
            result = solve(first, *rest)
    else:
        result = np.full(shape, np.nan)
    return torch.from_numpy(np.ascontiguousarray(result)).to(gramian.dtype).to(gramian.device)


def _arrays(*tensors: Tensor) -> list[Array]:
    device = tensors[0].device
    if device.type == "cpu":
        return [tensor.detach().to("cpu", torch.float64).numpy() for tensor in tensors]
    flat = torch.cat([tensor.detach().to(device).flatten() for tensor in tensors])
    parts = np.split(
        flat.cpu().to(torch.float64).numpy(), np.cumsum([t.numel() for t in tensors])[:-1]
    )
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
