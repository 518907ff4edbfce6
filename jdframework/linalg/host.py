"""Small problems are solved on the host, in float64, with one transfer each way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from jdframework.linalg.nonnegative import Array


def on_host(
    solve: Callable[..., Array], gramian: Tensor, *others: Tensor, shape: tuple[int, ...]
) -> Tensor:
    """``solve(gramian, *others)`` in NumPy float64; the result has the Gramian's dtype and device.

    :param solve: Takes and returns arrays.
    :param gramian: ``[m, m]``.
    :param others: Further arguments; they travel with the Gramian, in one transfer.
    :param shape: The result's shape; where an input is not finite, it is filled with NaN.
    """
    tensors = (gramian, *others)
    if gramian.device.type == "cpu":
        arrays = [tensor.detach().to(torch.float64).numpy() for tensor in tensors]
    else:
        flat = torch.cat([t.detach().to(gramian.device, torch.float64).flatten() for t in tensors])
        parts = np.split(flat.cpu().numpy(), np.cumsum([t.numel() for t in tensors])[:-1])
        arrays = [part.reshape(t.shape) for part, t in zip(parts, tensors, strict=True)]
    if all(np.isfinite(array).all() for array in arrays):
        result = solve(*arrays)
    else:
        result = np.full(shape, np.nan)
    return torch.from_numpy(np.ascontiguousarray(result)).to(gramian.device, gramian.dtype)
