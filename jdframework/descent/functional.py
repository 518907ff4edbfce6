"""Jacobian descent without a training-loop object, on any tensors.

Everything here differentiates with the engine ``autojac``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from jdframework import registry
from jdframework.autograd.accumulation import add_to_grad, add_to_jac, jac_of
from jdframework.autograd.eager import eager
from jdframework.autograd.graph import leaves_of
from jdframework.linearization import JacobianRows
from jdframework.linearization import features as multitask
from jdframework.linearization.blocks import joined
from jdframework.linearization.combination import groups_of, need_of, update
from jdframework.protocols import Engine
from jdframework.registry import Spec


@eager
def backward(
    tensors: Tensor | Sequence[Tensor],
    aggregator: Spec | None = None,
    inputs: Iterable[Tensor] | None = None,
    *,
    jac_tensors: Tensor | Sequence[Tensor] | None = None,
    retain_graph: bool = False,
    parallel_chunk_size: int | None = None,
) -> Float[Tensor, " m"] | None:
    """Differentiates several values, one objective per entry, and aggregates their gradients.

    With an aggregator, its direction is added to the ``.grad`` of the inputs. Without one, the
    Jacobians are added to their ``.jac``, for :func:`jac_to_grad`.

    :param tensors: What to differentiate: tensors of any shape, ``m`` entries in all.
    :param aggregator: A spec, or an instance of an aggregator or a weighting.
    :param inputs: With respect to what; every leaf used to compute ``tensors`` when None.
    :param jac_tensors: What each of ``m`` rows starts from, ``[m, *tensor.shape]`` per tensor;
        the identity when None.
    :param retain_graph: Whether the graph can be used again.
    :param parallel_chunk_size: How many objectives are differentiated at once; None lets the
        engine choose, 1 avoids ``torch.vmap``.
    :return: The weights ``[m]``; None without an aggregator, or if it has none.
    :raises ValueError: if an argument is empty, repeats a tensor, or has a wrong shape.
    :raises UnknownNameError: if the aggregator's name is unknown.

    >>> parameter = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> backward([parameter[0] * 2, (parameter**2).sum()], "sum")
    tensor([1., 1.])
    >>> parameter.grad
    tensor([4., 4.])
    """
    method = None if aggregator is None else registry.aggregator(aggregator)
    outputs = _checked_outputs(tensors, "tensors", jac_tensors)
    starts = _checked_starts(jac_tensors, outputs, "jac_tensors", "tensors")
    wanted = leaves_of(outputs) if inputs is None else _checked(inputs, "inputs")
    lin = _engine(parallel_chunk_size).linearize(
        outputs,
        wanted,
        cotangents=starts,
        groups=None if method is None else groups_of(method, len(wanted)),
        need="rows" if method is None else need_of(method, len(wanted)),
        retain_graph=retain_graph,
    )
    if method is None:
        add_to_jac(wanted, lin.jacobian())
        return None
    weights, found = update(lin, method, _entries(outputs) if starts is None else None)
    add_to_grad(*found)
    return weights


@eager
def mtl_backward(
    losses: Sequence[Tensor],
    features: Tensor | Sequence[Tensor],
    aggregator: Spec | None = None,
    tasks_params: Sequence[Iterable[Tensor]] | None = None,
    shared_params: Iterable[Tensor] | None = None,
    retain_graph: bool = False,
    parallel_chunk_size: int | None = None,
    *,
    grad_tensors: Sequence[Tensor] | None = None,
) -> Float[Tensor, " m"] | None:
    """Multi-task learning: aggregates on the shared parameters, plain gradients on the heads.

    :param losses: One scalar per task, or any tensors if ``grad_tensors`` are given.
    :param features: The shared representation, one tensor or several.
    :param aggregator: A spec or an instance. Without one, the Jacobians of the losses with respect
        to the shared parameters are added to their ``.jac``, for :func:`jac_to_grad`.
    :param tasks_params: Per task, its head's parameters; by default the leaves of its loss that
        were not used to compute the features. Tasks may have some in common: the gradients are
        summed.
    :param shared_params: The trunk's parameters; the leaves of the features when None. One that a
        loss also reaches past the features (tied weights) gets both terms.
    :param retain_graph: Whether the graph can be used again.
    :param parallel_chunk_size: How many tasks are taken through the trunk at once.
    :param grad_tensors: Per task, what to start from, of its loss's shape.
    :return: The weights ``[m]``; None without an aggregator, or if it has none.
    :raises ValueError: if an argument is empty, repeats a tensor, or has a wrong shape, or if
        ``tasks_params`` and ``shared_params`` overlap.
    :raises UnknownNameError: if the aggregator's name is unknown.

    >>> shared = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> head = torch.tensor(3.0, requires_grad=True)
    >>> features = shared * 2
    >>> mtl_backward([features.sum() * head, (features**2).sum()], features, "mean")
    tensor([0.5000, 0.5000])
    >>> shared.grad, head.grad
    (tensor([ 7., 11.]), tensor(6.))
    """
    method = None if aggregator is None else registry.aggregator(aggregator)
    outputs = _checked_outputs(losses, "losses", grad_tensors)
    starts = _checked_grad_tensors(grad_tensors, outputs)
    through = _checked(features, "features", differentiable=True)
    shared = (
        leaves_of(through) if shared_params is None else _checked(shared_params, "shared_params")
    )
    tasks = _tasks_params(tasks_params, outputs, through)
    _check_disjoint(tasks, shared)
    cut = multitask.cut_at(
        through, outputs, tasks, shared, grad_tensors=starts, retain_graph=retain_graph
    )
    lin = _engine(parallel_chunk_size).linearize(
        cut.outputs,
        shared,
        cotangents=cut.starts,
        groups=None if method is None else groups_of(method, len(shared)),
        need="rows" if method is None else need_of(method, len(shared)),
        retain_graph=retain_graph,
    )
    if method is None:
        add_to_jac(shared, lin.jacobian())
        add_to_grad(cut.head_params, cut.head_gradients)
        return None
    weights, found = update(lin, method, _entries(outputs) if starts is None else None)
    add_to_grad(*joined(found, (cut.head_params, cut.head_gradients)))
    return weights


@eager
def jac(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    *,
    jac_outputs: Tensor | Sequence[Tensor] | None = None,
    retain_graph: bool = False,
    parallel_chunk_size: int | None = None,
) -> tuple[Float[Tensor, "m *shape"], ...]:
    """The Jacobian of ``outputs`` with respect to each of ``inputs``.

    :param outputs: What to differentiate: tensors of any shape, ``m`` entries in all.
    :param inputs: With respect to what.
    :param jac_outputs: What each of ``m`` rows starts from, ``[m, *output.shape]`` per output; the
        identity when None. This is the chain rule's left factor.
    :param retain_graph: Whether the graph can be used again.
    :param parallel_chunk_size: How many rows are computed at once; None lets the engine choose.
    :return: One ``[m, *input.shape]`` per input, zero where no output depends on it.
    :raises ValueError: if an argument is empty, repeats a tensor, or has a wrong shape.

    >>> parameter = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> jac([parameter[0] * 2, (parameter**2).sum()], parameter)
    (tensor([[2., 0.],
            [2., 4.]]),)
    """
    given = _checked_outputs(outputs, "outputs", jac_outputs)
    wanted = _checked(inputs, "inputs")
    starts = _checked_starts(jac_outputs, given, "jac_outputs", "outputs")
    m = len(starts[0]) if starts is not None else sum(output.numel() for output in given)
    lin = _engine(parallel_chunk_size).linearize(
        given, wanted, cotangents=starts, need="rows", retain_graph=retain_graph
    )
    return tuple(
        tensor.new_zeros((m, *tensor.shape)) if jacobian is None else jacobian
        for tensor, jacobian in zip(wanted, lin.jacobian(), strict=True)
    )


@eager
def jac_to_grad(
    tensors: Iterable[Tensor], aggregator: Spec, *, retain_jac: bool = False
) -> Float[Tensor, " m"] | None:
    """Aggregates the ``.jac`` fields of ``tensors`` into their ``.grad``.

    Tensors without a ``.jac``, which the losses do not reach, are skipped; a warning names them
    once.

    :param tensors: The parameters, usually ``model.parameters()``.
    :param aggregator: A spec, or an instance of an aggregator or a weighting.
    :param retain_jac: Whether to keep the ``.jac`` fields.
    :return: The weights ``[m]``; None if the aggregator has none.
    :raises ValueError: if no tensor has a ``.jac``, or they differ in ``m``.

    >>> parameter = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> backward([parameter[0] * 2, (parameter**2).sum()])
    >>> jac_to_grad([parameter], "sum")
    tensor([1., 1.])
    >>> parameter.grad
    tensor([4., 4.])
    """
    method = registry.aggregator(aggregator)
    given = _checked(tensors, "tensors")
    reached = [tensor for tensor in given if jac_of(tensor) is not None]
    if not reached:
        raise ValueError(
            "no tensor has a .jac field: call jd.backward or jd.mtl_backward without an "
            "aggregator first"
        )
    _name_unreached(given)
    blocks = [jac_of(tensor) for tensor in reached]
    weights, found = update(JacobianRows(reached, blocks, groups_of(method, len(reached))), method)
    add_to_grad(*found)
    if not retain_jac:
        for tensor in reached:
            del tensor.jac  # type: ignore[attr-defined]
    return weights


def _engine(parallel_chunk_size: int | None) -> Engine:
    if parallel_chunk_size is not None and parallel_chunk_size < 1:
        raise ValueError(
            f"parallel_chunk_size must be at least 1 or None, not {parallel_chunk_size}"
        )
    return _engine_for(parallel_chunk_size)


@lru_cache(maxsize=8)
def _engine_for(parallel_chunk_size: int | None) -> Engine:
    return registry.engine("autojac", parallel_chunk_size=parallel_chunk_size)


def _checked(
    tensors: Tensor | Iterable[Tensor], argument: str, *, differentiable: bool = False
) -> list[Tensor]:
    found = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    if not found or not all(_is_tensor(t, argument).numel() for t in found if differentiable):
        raise ValueError(f"{argument} is empty")
    if len({id(_is_tensor(tensor, argument)) for tensor in found}) < len(found):
        raise ValueError(f"{argument} contains a tensor more than once")
    for position, tensor in enumerate(found):
        if not tensor.requires_grad:
            raise ValueError(
                f"{argument}[{position}] of shape {list(tensor.shape)} does not require gradients"
            )
    return found


def _checked_outputs(
    tensors: Tensor | Iterable[Tensor], argument: str, starts: object | None
) -> list[Tensor]:
    found = _checked(tensors, argument, differentiable=True)
    for position, tensor in enumerate(found):
        if tensor.is_complex() and starts is None:
            raise ValueError(
                f"{argument}[{position}] is complex, of which autograd would take the real part "
                f"alone: give its real part, its imaginary part or its modulus"
            )
    return found


def _is_tensor(value: Any, argument: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument} must hold tensors, not {type(value).__name__}")
    return value


def _checked_starts(
    starts: Tensor | Sequence[Tensor] | None, outputs: list[Tensor], argument: str, of: str
) -> list[Tensor] | None:
    if starts is None:
        return None
    found = [starts] if isinstance(starts, Tensor) else list(starts)
    if len(found) != len(outputs):
        raise ValueError(f"{argument} has {len(found)} tensors, but {of} has {len(outputs)}")
    for position, (start, output) in enumerate(zip(found, outputs, strict=True)):
        if start.shape[1:] != output.shape or start.ndim != output.ndim + 1 or not len(start):
            raise ValueError(
                f"{argument}[{position}] has shape {list(start.shape)}, but "
                f"[m, {', '.join(map(str, output.shape))}] is needed for {of}[{position}]"
            )
    if len({len(start) for start in found}) > 1:
        raise ValueError(f"{argument} differ in their rows: {[len(start) for start in found]}")
    return found


def _checked_grad_tensors(
    grad_tensors: Sequence[Tensor] | None, losses: list[Tensor]
) -> list[Tensor] | None:
    if grad_tensors is None:
        for position, loss in enumerate(losses):
            if loss.numel() != 1:
                raise ValueError(
                    f"losses[{position}] has shape {list(loss.shape)}: give scalars, or "
                    f"grad_tensors"
                )
        return None
    found = list(grad_tensors)
    shapes, wanted = [list(t.shape) for t in found], [list(t.shape) for t in losses]
    if shapes != wanted:
        raise ValueError(f"grad_tensors has the shapes {shapes}, but losses has {wanted}")
    return found


def _tasks_params(
    given: Sequence[Iterable[Tensor]] | None, losses: list[Tensor], features: list[Tensor]
) -> list[list[Tensor]]:
    if given is None:
        return multitask.default_tasks_params(losses, features)
    tasks = [list(params) for params in given]
    if len(tasks) != len(losses):
        raise ValueError(f"tasks_params has {len(tasks)} entries, but losses has {len(losses)}")
    return [
        _checked(params, f"tasks_params[{task}]") if params else []
        for task, params in enumerate(tasks)
    ]


def _check_disjoint(tasks: list[list[Tensor]], shared: list[Tensor]) -> None:
    identities = {id(tensor) for tensor in shared}
    for task, params in enumerate(tasks):
        for tensor in params:
            if id(tensor) in identities:
                raise ValueError(
                    f"tasks_params[{task}] and shared_params have a tensor of shape "
                    f"{list(tensor.shape)} in common: it must be in one of them only"
                )


def _entries(outputs: list[Tensor]) -> Float[Tensor, " m"]:
    return torch.cat([output.detach().reshape(-1) for output in outputs])


_named: Final = WeakIdKeyDictionary()


def _name_unreached(given: list[Tensor]) -> None:
    missing = {
        f"tensors[{position}] of shape {list(tensor.shape)}": tensor
        for position, tensor in enumerate(given)
        if jac_of(tensor) is None and tensor not in _named
    }
    if missing:
        _named.update((tensor, True) for tensor in missing.values())
        what = f"the losses do not reach {', '.join(missing)}: skipped"
        warnings.warn(what, UserWarning, stacklevel=3)
