"""Adding to ``.grad`` and ``.jac`` fields: everything is checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jdframework.errors import UnsupportedModelError


@torch.no_grad()
def add_to_grad(tensors: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Adds each gradient to its tensor's ``.grad``, as ``torch.Tensor.backward`` would.

    :param tensors: Leaves, or tensors that retain their gradient.
    :param gradients: One of the tensor's shape each; None leaves the field as it is.
    :raises ValueError: if a tensor cannot have a ``.grad``.
    :raises UnsupportedModelError: if a tensor waits for autograd's own accumulation.
    """
    pairs = [(t, g) for t, g in zip(tensors, gradients, strict=True) if g is not None]
    for position, (tensor, _) in enumerate(pairs):
        _check_has_field(tensor, position, ".grad")
        if getattr(tensor, "_post_accumulate_grad_hooks", None):
            raise UnsupportedModelError(
                f"a parameter of shape {list(tensor.shape)} has a hook registered by "
                f"register_post_accumulate_grad_hook, which this update would not run: remove it, "
                f"and do its work after backward()"
            )
    # Before the first one is added, as memory may run out.
    casts = [gradient.to(device=tensor.device, dtype=tensor.dtype) for tensor, gradient in pairs]
    for (tensor, _), cast in zip(pairs, casts, strict=True):
        if tensor.grad is None:
            tensor.grad = cast
        else:
            tensor.grad += cast


@torch.no_grad()
def add_to_jac(tensors: Sequence[Tensor], jacobians: Sequence[Tensor | None]) -> None:
    """Adds each Jacobian ``[m, *shape]`` to its tensor's ``.jac``, which is made where missing.

    :param tensors: Leaves, or tensors that retain their gradient.
    :param jacobians: One each; None leaves the field as it is.
    :raises ValueError: if a tensor cannot have the field, or has one with another ``m``.
    """
    pairs = [(t, j) for t, j in zip(tensors, jacobians, strict=True) if j is not None]
    for position, (tensor, jacobian) in enumerate(pairs):
        _check_has_field(tensor, position, ".jac")
        present = jac_of(tensor)
        if present is not None and present.shape != jacobian.shape:
            raise ValueError(
                f"a tensor of shape {list(tensor.shape)} already has a .jac of shape "
                f"{list(present.shape)}, to which one of shape {list(jacobian.shape)} cannot be "
                f"added: aggregate it with jd.jac_to_grad, or set it to None, first"
            )
    for tensor, jacobian in pairs:
        present = jac_of(tensor)
        tensor.jac = jacobian if present is None else present + jacobian  # type: ignore[attr-defined]


def jac_of(tensor: Tensor) -> Tensor | None:
    """The tensor's ``.jac``, None if it has none."""
    found = getattr(tensor, "jac", None)
    return found if isinstance(found, Tensor) else None


def _check_has_field(tensor: Tensor, position: int, field: str) -> None:
    if not (tensor.requires_grad and (tensor.is_leaf or tensor.retains_grad)):
        raise ValueError(
            f"input {position} of shape {list(tensor.shape)} cannot have a {field}: it must "
            f"require gradients, and be a leaf or retain its gradient (tensor.retain_grad())"
        )
