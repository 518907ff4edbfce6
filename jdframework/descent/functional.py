"""Jacobian descent without a training-loop object, on any tensors.

Everything here differentiates with the engine ``autojac``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from jdframework import registry
from jdframework.autograd.accumulation import add_to_grad, add_to_jac, jac_of
from jdframework.autograd.autocast import without_autocast
from jdframework.autograd.eager import eager
from jdframework.autograd.graph import leaves_of
from jdframework.autograd.ranks import check_one_rank
from jdframework.bases.objective_names import check_names, keep_names
from jdframework.descent.functional_arguments import (
    Inputs,
    Outputs,
    check_disjoint,
    check_rows,
    checked,
    checked_features,
    checked_grad_tensors,
    checked_outputs,
    checked_starts,
    checked_tasks_params,
    of_tasks,
)
from jdframework.linearization import Gradients, JacobianRows, Linearization
from jdframework.linearization.blocks import joined
from jdframework.linearization.combination import (
    combine,
    groups_of,
    need_of,
    pullback,
    update,
)
from jdframework.linearization.features import (
    Representation,
    check_parts,
    cut_at,
)
from jdframework.linearization.objectives import Losses, objectives
from jdframework.protocols import Engine
from jdframework.registry import Spec


@eager
@without_autocast()
def backward(
    tensors: Outputs,
    aggregator: Spec | None = None,
    inputs: Inputs | None = None,
    *,
    jac_tensors: Tensor | Sequence[Tensor] | None = None,
    retain_graph: bool = False,
    parallel_chunk_size: int | None = None,
    process_group: Literal[False] | None = None,
) -> Float[Tensor, " m"] | None:
    """Differentiates several values, one objective per entry, and aggregates their gradients.

    With an aggregator, its direction is added to the ``.grad`` of the inputs. Without one, the
    Jacobians are added to their ``.jac``, for :func:`jac_to_grad`.

    :param tensors: What to differentiate: tensors of any shape, ``m`` entries in all.
    :param aggregator: A spec, or an instance of an aggregator or a weighting.
    :param inputs: With respect to what: tensors, or modules, which stand for their parameters that
        require gradients; every leaf used to compute ``tensors`` when None. What no tensor depends
        on is left as it is, as by ``torch.autograd.backward``.
    :param jac_tensors: What each of ``m`` rows starts from, ``[m, *tensor.shape]`` per tensor;
        the identity when None.
    :param retain_graph: Whether the graph can be used again.
    :param parallel_chunk_size: How many objectives are differentiated at once; None lets the
        engine choose, 1 avoids ``torch.vmap``.
    :param process_group: False if each process of a ``torch.distributed`` job trains a model of its
        own; otherwise a rank that would aggregate its own losses alone is refused.
    :return: The weights ``[m]``; None without an aggregator, or if it has none.
    :raises ValueError: if an argument is empty, repeats a tensor, or has a wrong shape.
    :raises UnknownNameError: if the aggregator's name is unknown.
    :raises UnsupportedModelError: if several processes train one model.

    >>> parameter = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> backward([parameter[0] * 2, (parameter**2).sum()], "sum")
    tensor([1., 1.])
    >>> parameter.grad
    tensor([4., 4.])
    """
    method = None if aggregator is None else registry.aggregator(aggregator)
    if method is not None:
        check_one_rank(method.name, process_group)
        _check_order(method, tensors)
    outputs = checked_outputs(tensors, "tensors", jac_tensors)
    starts = checked_starts(jac_tensors, outputs, "jac_tensors", "tensors")
    wanted = leaves_of(outputs) if inputs is None else checked(inputs, "inputs")
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
    weights, found = _updated(lin, method, _entries(outputs) if starts is None else None, "inputs")
    add_to_grad(*found)
    _keep_order(method, tensors)
    return weights


@eager
@without_autocast()
def mtl_backward(  # noqa: PLR0913  # the contract has them
    losses: Iterable[Tensor] | Mapping[str, Tensor],
    features: Representation,
    aggregator: Spec | None = None,
    tasks_params: Sequence[Inputs] | Mapping[str, Inputs] | None = None,
    shared_params: Inputs | None = None,
    retain_graph: bool = False,
    parallel_chunk_size: int | None = None,
    *,
    grad_tensors: Sequence[Tensor] | Mapping[str, Tensor] | None = None,
    process_group: Literal[False] | None = None,
) -> Float[Tensor, " m"] | None:
    """Multi-task learning: aggregates on the shared parameters, plain gradients on the heads.

    Parameters that are given but not reached are left as they are, as by
    ``torch.autograd.backward``.

    :param losses: One scalar per task, or any tensors if ``grad_tensors`` are given; a sequence, or
        a mapping from the tasks' names.
    :param features: The shared representation: a tensor, or a mapping, a sequence or a generator of
        tensors, each of which at least one loss passes through.
    :param aggregator: A spec or an instance. Without one, the Jacobians of the losses with respect
        to the shared parameters are added to their ``.jac``, for :func:`jac_to_grad`.
    :param tasks_params: Per task, its head's parameters, or its head; by default the leaves of its
        loss that were not used to compute the features. Tasks may have some in common: the
        gradients are summed. A mapping if ``losses`` is one.
    :param shared_params: The trunk's parameters, or the trunk; the leaves of the features when
        None. One that a loss also reaches past the features (tied weights) gets both terms.
    :param retain_graph: Whether the graph can be used again.
    :param parallel_chunk_size: How many tasks are taken through the trunk at once.
    :param grad_tensors: Per task, what to start from, of its loss's shape; a mapping if ``losses``
        is one.
    :param process_group: False if each process of a ``torch.distributed`` job trains a model of its
        own; otherwise a rank that would aggregate its own losses alone is refused.
    :return: The weights ``[m]``; None without an aggregator, or if it has none.
    :raises ValueError: if an argument is empty, repeats a tensor, or has a wrong shape, if
        ``tasks_params`` and ``shared_params`` overlap, if a feature has no graph or plays no part
        in the losses, or if the names of ``losses`` come in another order than that in which an
        instance remembers them.
    :raises UnknownNameError: if the aggregator's name is unknown.
    :raises UnsupportedModelError: if several processes train one model.

    >>> shared = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> head = torch.tensor(3.0, requires_grad=True)
    >>> features = shared * 2
    >>> mtl_backward([features.sum() * head, (features**2).sum()], features, "mean")
    tensor([0.5000, 0.5000])
    >>> shared.grad, head.grad
    (tensor([ 7., 11.]), tensor(6.))
    """
    method = None if aggregator is None else registry.aggregator(aggregator)
    if method is not None:
        check_one_rank(method.name, process_group)
        _check_order(method, losses)
    names = list(losses) if isinstance(losses, Mapping) else None
    outputs = checked_outputs(losses, "losses", grad_tensors)
    starts = checked_grad_tensors(of_tasks(grad_tensors, names, "grad_tensors"), outputs)
    through = checked_features(features)
    shared = through.below.leaves
    if shared_params is not None:
        shared = checked(shared_params, "shared_params")
    tasks = checked_tasks_params(of_tasks(tasks_params, names, "tasks_params"), outputs, through)
    check_disjoint(tasks, shared)
    check_parts(outputs, through, None if shared_params is None else shared)
    cut = cut_at(through, outputs, tasks, shared, grad_tensors=starts, retain_graph=retain_graph)
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
    values = _entries(outputs) if starts is None else None
    weights, found = _updated(lin, method, values, "shared_params")
    add_to_grad(*joined(found, (cut.head_params, cut.head_gradients)))
    _keep_order(method, losses)
    return weights


@eager
@without_autocast()
def jac(
    outputs: Outputs,
    inputs: Inputs,
    *,
    jac_outputs: Tensor | Sequence[Tensor] | None = None,
    retain_graph: bool = False,
    parallel_chunk_size: int | None = None,
) -> tuple[Float[Tensor, "m *shape"], ...]:
    """The Jacobian of ``outputs`` with respect to each of ``inputs``.

    :param outputs: What to differentiate: tensors of any shape, ``m`` entries in all.
    :param inputs: With respect to what: tensors, or modules, which stand for their parameters that
        require gradients.
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
    given = checked_outputs(outputs, "outputs", jac_outputs)
    wanted = checked(inputs, "inputs")
    starts = checked_starts(jac_outputs, given, "jac_outputs", "outputs")
    m = len(starts[0]) if starts is not None else sum(output.numel() for output in given)
    lin = _engine(parallel_chunk_size).linearize(
        given, wanted, cotangents=starts, need="rows", retain_graph=retain_graph
    )
    return tuple(
        tensor.new_zeros((m, *tensor.shape)) if jacobian is None else jacobian
        for tensor, jacobian in zip(wanted, lin.jacobian(), strict=True)
    )


@eager
@without_autocast()
def jac_to_grad(
    tensors: Inputs,
    aggregator: Spec,
    *,
    losses: Losses | None = None,
    retain_jac: bool = False,
    process_group: Literal[False] | None = None,
) -> Float[Tensor, " m"] | None:
    """Aggregates the ``.jac`` fields of ``tensors`` into their ``.grad``.

    Tensors without a ``.jac``, which the losses do not reach, are skipped; a warning names them
    once.

    :param tensors: The parameters, usually ``model.parameters()``, or the model.
    :param aggregator: A spec, or an instance of an aggregator or a weighting.
    :param losses: The objectives' values, for the methods that need them beside the gradients
        (``db-mtl``): a tensor, a sequence of scalars or a mapping. They need no graph.
    :param retain_jac: Whether to keep the ``.jac`` fields.
    :param process_group: False if each process of a ``torch.distributed`` job trains a model of its
        own.
    :return: The weights ``[m]``; None if the aggregator has none.
    :raises ValueError: if no tensor has a ``.jac``, one has no rows, or they differ in ``m``.
    :raises UnsupportedModelError: if several processes train one model.

    >>> parameter = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> backward([parameter[0] * 2, (parameter**2).sum()])
    >>> jac_to_grad([parameter], "sum")
    tensor([1., 1.])
    >>> parameter.grad
    tensor([4., 4.])
    """
    method = registry.aggregator(aggregator)
    check_one_rank(method.name, process_group)
    given = checked(tensors, "tensors")
    reached = [tensor for tensor in given if jac_of(tensor) is not None]
    if not reached:
        raise ValueError(
            "no tensor has a .jac field: call jd.backward or jd.mtl_backward without an "
            "aggregator first"
        )
    _name_unreached(given)
    blocks = [None if (block := jac_of(tensor)) is None else block.detach() for tensor in reached]
    check_rows(given)
    values = None if losses is None else objectives(losses).values().flatten()
    lin = JacobianRows(reached, blocks, groups_of(method, len(reached)))
    weights, found = update(lin, method, values)
    add_to_grad(*found)
    if not retain_jac:
        for tensor in reached:
            del tensor.jac  # type: ignore[attr-defined]
    return weights


def _updated(
    lin: Linearization, method: Any, losses: Tensor | None, argument: str
) -> tuple[Float[Tensor, " m"] | None, Gradients]:
    """The weights and the update.

    :raises ValueError: if none of the parameters is reached, by the name of their argument.
    """
    gramians = lin.gramians()
    if all(gramian is None for gramian in gramians):
        raise ValueError(
            f"none of the {argument} was used to compute what is differentiated: give leaves that "
            f"were, or leave {argument} out"
        )
    made = combine(lin, gramians, method, losses)
    return made.of_all, pullback(lin, made)


def _check_order(method: Any, given: object) -> None:
    """Refuses a mapping in another order than that which a ready instance remembers."""
    if isinstance(given, Mapping):
        check_names(method, tuple(map(str, given)))


def _keep_order(method: Any, given: object) -> None:
    if isinstance(given, Mapping):
        keep_names(method, tuple(map(str, given)))


def _engine(parallel_chunk_size: int | None) -> Engine:
    if parallel_chunk_size is not None and parallel_chunk_size < 1:
        raise ValueError(
            f"parallel_chunk_size must be at least 1 or None, not {parallel_chunk_size}"
        )
    return _engine_for(parallel_chunk_size)


@lru_cache(maxsize=8)
def _engine_for(parallel_chunk_size: int | None) -> Engine:
    return registry.engine("autojac", parallel_chunk_size=parallel_chunk_size)


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
