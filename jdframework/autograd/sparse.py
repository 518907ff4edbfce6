"""Sparse gradients: dense within a step, and of autograd's layout in ``.grad``."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_sparse_dims: Final[Any] = WeakIdKeyDictionary()
"""How many dimensions the last gradient that autograd gave for a tensor indexes, if it was sparse,
as ``torch.nn.Embedding(…, sparse=True)`` has it."""


def dense(gradient: Tensor) -> Tensor:
    """A sparse gradient as a dense one."""
    return gradient.to_dense() if gradient.layout is not torch.strided else gradient


def noted(gradient: Tensor, of: Any) -> Tensor:
    """A gradient as a dense one, whose layout is remembered for :func:`in_layout_for`.

    :param gradient: What autograd gave.
    :param of: For which tensor.
    """
    if gradient.layout is torch.sparse_coo:
        _sparse_dims[of] = gradient.sparse_dim()
    elif _sparse_dims and of in _sparse_dims:
        del _sparse_dims[of]
    return dense(gradient)


def in_layout_for(tensor: Tensor, update: Tensor) -> Tensor:
    """An update in the sparse layout that autograd's own gradient of the tensor had.

    :param tensor: A leaf.
    :param update: What is to be added to its ``.grad``.
    """
    if not _sparse_dims or update.layout is not torch.strided or tensor not in _sparse_dims:
        return update
    return update.to_sparse(_sparse_dims[tensor])
