"""One ordinary backward pass, with weights that are known beforehand: the step of a scalarizer."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jdframework.autograd.graph import leaves_of
from jdframework.autograd.rollback import GradRollback
from jdframework.descent.backward_call import BackwardCall
from jdframework.linearization.combination import Combination
from jdframework.linearization.objectives import Objectives


def ordinary_pass(scalarizer: Any, call: BackwardCall) -> Combination:
    """Lets autograd itself add the scalar's gradient to ``.grad``, so that all its hooks run.

    :param scalarizer: What gives the scalar.
    :param call: The losses.
    :return: The scalar's derivative with respect to each loss, as weights.
    :raises NonFiniteError: if a gradient is not finite; ``.grad`` is then as before.
    """
    leaf = call.values.clone().requires_grad_()
    leaves = [*leaves_of(call.given.tensors), *scalarizer.parameters()]
    with GradRollback(leaves):
        call.scale.scaled(scalarizer(leaf)).backward()
        weights = torch.zeros_like(call.values) if leaf.grad is None else leaf.grad
        starts = _starts(call.given, weights)
        torch.autograd.backward(call.given.tensors, starts, retain_graph=call.retain_graph)
        call.finite.gradients(leaves, [leaf.grad for leaf in leaves], weights)
    unscaled = call.scale.unscaled(weights.reshape(-1))
    return Combination(scalarizer, [scalarizer], [unscaled], ([], []), None)


def _starts(given: Objectives, weights: Float[Tensor, "..."]) -> list[Tensor]:
    """The cotangents of the backward pass, one tensor per tensor of the losses."""
    parts = torch.split(weights.reshape(-1), [tensor.numel() for tensor in given.tensors])
    return [part.reshape(t.shape).to(t.dtype) for part, t in zip(parts, given.tensors, strict=True)]
