"""Adding to ``.grad`` and ``.jac`` fields: everything is checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from jdframework.autograd.leaf_hooks import (
    accumulate_through_hooks,
    has_waiting_hooks,
    run_waiting_hooks,
)
from jdframework.autograd.rollback import GradRollback
from jdframework.autograd.sparse import in_layout_for

_OVERLAPS: Final = 1
"""What torch says of a tensor some of whose entries are the same number in memory."""


@torch.no_grad()
def add_to_grad(tensors: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Adds each gradient to its tensor's ``.grad``, as ``torch.Tensor.backward`` would.

    Whatever may raise comes first, so that either every ``.grad`` is written, or none:

    1. the gradients are brought to their tensors' dtype and device, and to the layout that
       autograd's own gradient has (sparse for ``torch.nn.Embedding(…, sparse=True)``);
    2. hooks that ``Tensor.register_hook`` put on a leaf see the update, once, and may replace it;
    3. everything is written;
    4. hooks that ``register_post_accumulate_grad_hook`` put on a leaf run, once each, when every
       ``.grad`` is complete. One that raises ends the rest, as in autograd, and every ``.grad`` is
       as it was before; what hooks did to the parameters, such as an optimizer's step, stays.

    :param tensors: Leaves, or tensors that retain their gradient; one that is there twice gets the
        sum.
    :param gradients: One of the tensor's shape each; None leaves the field as it is.
    :raises ValueError: if a tensor cannot have a ``.grad``, or a gradient has another shape.
    """
    pairs = _each_once(tensors, gradients)
    casts = [_cast(gradient, tensor) for tensor, gradient in pairs]
    hooked: list[tuple[Tensor, Tensor]] = []
    plain: list[tuple[Tensor, Tensor]] = []
    for (tensor, _), cast in zip(pairs, casts, strict=True):
        where = hooked if tensor.is_leaf and tensor._backward_hooks else plain
        where.append((tensor, cast))
    write = _Writing(plain)
    written = [tensor for tensor, _ in pairs]
    with GradRollback(written if any(map(has_waiting_hooks, written)) else []):
        if hooked:
            accumulate_through_hooks(*zip(*hooked, strict=True))
        write()
        run_waiting_hooks(written)


class _Writing:
    """Writes that are prepared so far that none of them can raise.

    :param pairs: Tensors, and what is to be added to their ``.grad``.
    """

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._sums: list[tuple[Tensor, Tensor]] = []
        self._totals: list[Tensor] = []
        self._terms: list[Tensor] = []
        taken: set[int] = set()
        for tensor, cast in pairs:
            grad = tensor.grad
            if grad is None:
                self._sums.append((tensor, _of_its_own(cast, taken)))
            elif _takes_in_place(grad):
                self._totals.append(grad)
                self._terms.append(cast if cast.layout is torch.strided else cast.to_dense())
            else:
                # In this order: a dense tensor takes a sparse one, and not the other way round.
                is_sparse = grad.layout is not torch.strided
                self._sums.append((tensor, cast + grad if is_sparse else grad + cast))

    def __call__(self) -> None:
        """Writes everything that was prepared."""
        if self._totals:
            torch._foreach_add_(self._totals, self._terms)
        for tensor, total in self._sums:
            tensor.grad = total


def _each_once(
    tensors: Sequence[Tensor], gradients: Sequence[Tensor | None]
) -> list[tuple[Tensor, Tensor]]:
    """The tensors that have a gradient, and the sum of each one's."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    position = 0
    for tensor, gradient in zip(tensors, gradients, strict=True):
        if gradient is None:
            continue
        _check_has_field(tensor, position, ".grad")
        if gradient.shape != tensor.shape:
            raise ValueError(
                f"the gradient of input {position} has shape {list(gradient.shape)}, but the "
                f"input has {list(tensor.shape)}"
            )
        position += 1
        before = found.get(id(tensor))
        found[id(tensor)] = (tensor, gradient if before is None else before[1] + gradient)
    return list(found.values())


def _cast(gradient: Tensor, tensor: Tensor) -> Tensor:
    """A gradient as autograd would keep it for the tensor."""
    if gradient.dtype is not tensor.dtype or gradient.device != tensor.device:
        gradient = gradient.to(device=tensor.device, dtype=tensor.dtype)
    return in_layout_for(tensor, gradient)


def _takes_in_place(grad: Tensor) -> bool:
    """Whether a dense term can be added to it where it lies, without any failure."""
    return grad.layout is torch.strided and not grad.is_inference() and not _overlaps(grad)


def _of_its_own(gradient: Tensor, taken: set[int]) -> Tensor:
    """A gradient that shares no memory with itself or another one, as one that was expanded does.

    :param gradient: What autograd gave, which may have given it for two tensors.
    :param taken: The places of those before; is added to.
    """
    if gradient.layout is not torch.strided:
        return gradient
    if gradient.data_ptr() in taken or _overlaps(gradient):
        return gradient.clone(memory_format=torch.contiguous_format)
    if gradient.numel():
        taken.add(gradient.data_ptr())
    return gradient


def _overlaps(tensor: Tensor) -> bool:
    return not tensor.is_contiguous() and torch._debug_has_internal_overlap(tensor) == _OVERLAPS


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
