"""Jacobian descent without a training-loop object, on any tensors.

Everything here differentiates with the engine ``autojac``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from jdframework import registry
from jdframework.autograd.accumulation import add_to_grad, add_to_jac, jac_of
from jdframework.autograd.autocast import without_autocast
from jdframework.autograd.eager import eager
from jdframework.autograd.graph import leaves_of
from jdframework.autograd.modules import trained
from jdframework.autograd.ranks import check_one_rank
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
    Features,
    Representation,
    as_features,
    check_parts,
    cut_at,
    tasks_leaves,
)
from jdframework.linearization.objectives import Losses, objectives
from jdframework.protocols import Engine
from jdframework.registry import Spec

Outputs: TypeAlias = "Tensor | Iterable[Tensor] | Mapping[str, Tensor]"
"""A tensor, several, or a mapping from names to tensors."""
Inputs: TypeAlias = "Tensor | nn.Module | Iterable[Tensor | nn.Module]"
"""Tensors; a module stands for its parameters that require gradients."""


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
    weights, found = _updated(lin, method, _entries(outputs) if starts is None else None, "inputs")
    add_to_grad(*found)
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
        ``tasks_params`` and ``shared_params`` overlap, or if a feature has no graph or plays no
        part in the losses.
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
    names = list(losses) if isinstance(losses, Mapping) else None
    outputs = _checked_outputs(losses, "losses", grad_tensors)
    starts = _checked_grad_tensors(_of_tasks(grad_tensors, names, "grad_tensors"), outputs)
    through = _checked_features(features)
    shared = through.below.leaves
    if shared_params is not None:
        shared = _checked(shared_params, "shared_params")
    tasks = _tasks_params(_of_tasks(tasks_params, names, "tasks_params"), outputs, through)
    _check_disjoint(tasks, shared)
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
    given = _checked(tensors, "tensors")
    reached = [tensor for tensor in given if jac_of(tensor) is not None]
    if not reached:
        raise ValueError(
            "no tensor has a .jac field: call jd.backward or jd.mtl_backward without an "
            "aggregator first"
        )
    _name_unreached(given)
    blocks = [jac_of(tensor) for tensor in reached]
    _check_rows(given)
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


def _engine(parallel_chunk_size: int | None) -> Engine:
    if parallel_chunk_size is not None and parallel_chunk_size < 1:
        raise ValueError(
            f"parallel_chunk_size must be at least 1 or None, not {parallel_chunk_size}"
        )
    return _engine_for(parallel_chunk_size)


@lru_cache(maxsize=8)
def _engine_for(parallel_chunk_size: int | None) -> Engine:
    return registry.engine("autojac", parallel_chunk_size=parallel_chunk_size)


def _checked(tensors: Any, argument: str) -> list[Tensor]:
    """The tensors, and the parameters of modules that require gradients."""
    given = [tensors] if isinstance(tensors, Tensor | nn.Module) else list(tensors)
    named: list[tuple[str, Tensor]] = []
    for position, each in enumerate(given):
        named += [(f"{argument}[{position}]", tensor) for tensor in _parameters(each, argument)]
    if not named:
        raise ValueError(f"{argument} is empty")
    return _checked_tensors(named, argument)


def _checked_tensors(named: Sequence[tuple[str, Tensor]], argument: str) -> list[Tensor]:
    """The tensors, if each is there once and requires gradients."""
    if len({id(tensor) for _, tensor in named}) < len(named):
        raise ValueError(f"{argument} contains a tensor more than once")
    for name, tensor in named:
        if not tensor.requires_grad:
            raise ValueError(f"{name} of shape {list(tensor.shape)} does not require gradients")
    return [tensor for _, tensor in named]


def _parameters(given: Any, argument: str) -> Iterator[Tensor]:
    if isinstance(given, nn.Module):
        found = trained([given])
        if not found:
            raise ValueError(
                f"{argument} has a {type(given).__name__} without parameters that require gradients"
            )
        yield from found
    else:
        yield _is_tensor(given, argument)


def _checked_outputs(tensors: Any, argument: str, starts: object | None) -> list[Tensor]:
    given = [tensors] if isinstance(tensors, Tensor) else tensors
    pairs = given.items() if isinstance(given, Mapping) else enumerate(given)
    named = [(f"{argument}[{key!r}]", _is_tensor(tensor, argument)) for key, tensor in pairs]
    if not named or not all(tensor.numel() for _, tensor in named):
        raise ValueError(f"{argument} is empty")
    found = _checked_tensors(named, argument)
    for name, tensor in named:
        if tensor.is_complex() and starts is None:
            raise ValueError(
                f"{name} is complex, of which autograd would take the real part alone: give its "
                f"real part, its imaginary part or its modulus"
            )
    return found


def _checked_features(features: Representation) -> Features:
    found = as_features(features)
    for position, feature in enumerate(found):
        if not feature.requires_grad:
            raise ValueError(
                f"{found.described(position)} does not require gradients: give it before it is "
                f"detached; if its modules are frozen, leave it out, and if all are, "
                f"sum(losses).backward() trains the heads"
            )
    return found


def _of_tasks(given: Any, names: list[str] | None, argument: str) -> Any:
    """What belongs to each task, in the order of the losses."""
    if not isinstance(given, Mapping | nn.ModuleDict):
        return given
    if names is None or set(given) != set(names):
        raise ValueError(
            f"{argument} has the tasks {', '.join(map(repr, given))}, but losses has "
            f"{'no names' if names is None else ', '.join(map(repr, names))}"
        )
    return [given[name] for name in names]


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
    given: Sequence[Inputs] | None, losses: list[Tensor], features: Features
) -> list[list[Tensor]]:
    if given is None:
        return tasks_leaves(losses, features)
    tasks = [p if isinstance(p, Tensor | nn.Module) else list(p) for p in given]
    if len(tasks) != len(losses):
        raise ValueError(f"tasks_params has {len(tasks)} entries, but losses has {len(losses)}")
    return [
        [] if isinstance(params, list) and not params else _checked(params, f"tasks_params[{task}]")
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


def _check_rows(given: list[Tensor]) -> None:
    for position, tensor in enumerate(given):
        jacobian = jac_of(tensor)
        if jacobian is not None and not len(jacobian):
            raise ValueError(
                f"the .jac of tensors[{position}] has no rows: set it to None, and call "
                f"jd.backward or jd.mtl_backward with at least one"
            )


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
