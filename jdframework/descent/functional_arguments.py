"""Reads and checks the arguments of the functional interface."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from jdframework.autograd.accumulation import jac_of
from jdframework.autograd.shared_modules import trained
from jdframework.linearization.features import Features, Representation, as_features, tasks_leaves

Outputs: TypeAlias = "Tensor | Iterable[Tensor] | Mapping[str, Tensor]"
"""A tensor, several, or a mapping from names to tensors."""
Inputs: TypeAlias = "Tensor | nn.Module | Iterable[Tensor | nn.Module]"
"""Tensors; a module stands for its parameters that require gradients."""


def checked(tensors: Any, argument: str) -> list[Tensor]:
    """The tensors, and the parameters of modules that require gradients."""
    given = [tensors] if isinstance(tensors, Tensor | nn.Module) else list(tensors)
    named: list[tuple[str, Tensor]] = []
    for position, each in enumerate(given):
        named += [(f"{argument}[{position}]", tensor) for tensor in _parameters(each, argument)]
    if not named:
        raise ValueError(f"{argument} is empty")
    return _checked_tensors(named, argument)


def checked_outputs(tensors: Any, argument: str, starts: object | None) -> list[Tensor]:
    """What is differentiated: tensors that require gradients, each once.

    :raises ValueError: if there is none, one is there twice, or one is complex without a start.
    """
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


def checked_features(features: Representation) -> Features:
    """The shared representation, every tensor of which requires gradients.

    :raises ValueError: naming the one that does not.
    """
    found = as_features(features)
    for position, feature in enumerate(found):
        if not feature.requires_grad:
            raise ValueError(
                f"{found.described(position)} does not require gradients: give it before it is "
                f"detached; if its modules are frozen, leave it out, and if all are, "
                f"sum(losses).backward() trains the heads"
            )
    return found


def checked_starts(
    starts: Tensor | Sequence[Tensor] | None, outputs: list[Tensor], argument: str, of: str
) -> list[Tensor] | None:
    """What each of ``m`` rows starts from, ``[m, *output.shape]`` per output.

    :raises ValueError: if a shape, or the number of tensors, is wrong.
    """
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


def checked_grad_tensors(
    grad_tensors: Sequence[Tensor] | None, losses: list[Tensor]
) -> list[Tensor] | None:
    """What each task starts from, of its loss's shape; None if every loss is a scalar.

    :raises ValueError: if a shape, or the number of tensors, is wrong.
    """
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


def checked_tasks_params(
    given: Sequence[Inputs] | None, losses: list[Tensor], features: Features
) -> list[list[Tensor]]:
    """Per task, its head's parameters; by default what its loss alone depends on.

    :raises ValueError: if there are not as many entries as losses.
    """
    if given is None:
        return tasks_leaves(losses, features)
    tasks = [p if isinstance(p, Tensor | nn.Module) else list(p) for p in given]
    if len(tasks) != len(losses):
        raise ValueError(f"tasks_params has {len(tasks)} entries, but losses has {len(losses)}")
    return [
        [] if isinstance(params, list) and not params else checked(params, f"tasks_params[{task}]")
        for task, params in enumerate(tasks)
    ]


def of_tasks(given: Any, names: list[str] | None, argument: str) -> Any:
    """What belongs to each task, in the order of the losses."""
    if not isinstance(given, Mapping | nn.ModuleDict):
        return given
    if names is None or set(given) != set(names):
        raise ValueError(
            f"{argument} has the tasks {', '.join(map(repr, given))}, but losses has "
            f"{'no names' if names is None else ', '.join(map(repr, names))}"
        )
    return [given[name] for name in names]


def check_disjoint(tasks: list[list[Tensor]], shared: list[Tensor]) -> None:
    """Refuses a parameter that belongs to a head and to what is shared.

    :raises ValueError: naming it.
    """
    identities = {id(tensor) for tensor in shared}
    for task, params in enumerate(tasks):
        for tensor in params:
            if id(tensor) in identities:
                raise ValueError(
                    f"tasks_params[{task}] and shared_params have a tensor of shape "
                    f"{list(tensor.shape)} in common: it must be in one of them only"
                )


def check_rows(given: list[Tensor]) -> None:
    """Refuses a ``.jac`` without rows.

    :raises ValueError: naming the tensor.
    """
    for position, tensor in enumerate(given):
        jacobian = jac_of(tensor)
        if jacobian is not None and not len(jacobian):
            raise ValueError(
                f"the .jac of tensors[{position}] has no rows: set it to None, and call "
                f"jd.backward or jd.mtl_backward with at least one"
            )


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


def _is_tensor(value: Any, argument: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument} must hold tensors, not {type(value).__name__}")
    return value
