"""The modules whose parameters the objectives share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from torch import Tensor, nn

from jdframework.errors import ConfigError
from jdframework.protocols import TreatsGroups

_ORDINARY: Final = nn.Module.parameters, nn.Module.named_parameters


Modules: TypeAlias = "nn.Module | Iterable[nn.Module] | Iterable[nn.Parameter]"
"""One module or several; or parameters, which an engine then finds on the graph alone."""


def checked(modules: Modules) -> tuple[nn.Module, ...]:
    """The modules as a user gives them, one or several; parameters become one that holds them.

    :raises ConfigError: if there is none, or something else.
    """
    found: tuple[Any, ...] = (modules,)
    if isinstance(modules, Iterable) and not isinstance(modules, nn.Module | Tensor | str):
        found = tuple(modules)
    if found and all(isinstance(parameter, nn.Parameter) for parameter in found):
        return (nn.ParameterList(found),)
    if not found or not all(isinstance(module, nn.Module) for module in found):
        raise ConfigError(
            f"needed is the model, a torch.nn.Module, or a sequence of modules, not "
            f"{_in_words(found)}: jd.Descent(model, …)"
        )
    return found


def _in_words(found: Sequence[object]) -> str:
    """What was given, without printing a tensor."""
    wrong = [one for one in found if not isinstance(one, nn.Module)]
    if not wrong:
        return "an empty sequence"
    if isinstance(wrong[0], Tensor):
        return "a tensor of shape " + str(list(wrong[0].shape))
    if isinstance(wrong[0], tuple):
        return "pairs, as named_parameters() gives"
    written = repr(wrong[0])
    return type(wrong[0]).__name__ + (f" {written}" if len(written) <= 60 else "")


def trained(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The parameters that require gradients now, each once, in their order."""
    found = {id(p): p for module in modules for p in parameters_of(module) if p.requires_grad}
    return list(found.values())


def parameters_of(module: nn.Module) -> Iterator[nn.Parameter]:
    """The same as ``module.parameters()``, faster: no names are made.

    One that is registered twice may come twice.

    :param module: One that may override ``parameters``, which is then called.
    """
    cls = type(module)
    if (cls.parameters, cls.named_parameters) != _ORDINARY:
        yield from module.parameters()
        return
    pending: list[nn.Module | None] = [module]
    seen = set()
    while pending:
        layer = pending.pop()
        if layer is None or layer in seen:
            continue
        seen.add(layer)
        for parameter in layer._parameters.values():
            if parameter is not None:
                yield parameter
        pending.extend(reversed(layer._modules.values()))


def bind(method: Any, modules: Sequence[nn.Module]) -> None:
    """Tells a method with groups of parameters which parameters there are now."""
    # The class is asked first: asking a module for what it does not have takes its time.
    if hasattr(type(method), "groups") and isinstance(method, TreatsGroups):
        names = parameter_names(modules)
        method.bind([names[id(p)] for p in trained(modules)], list(names.values()))


def move_with(modules: Sequence[nn.Module], method: nn.Module) -> None:
    """Moves a method to where the parameters are."""
    parameter = next((p for module in modules for p in module.parameters()), None)
    if parameter is not None:
        method.to(parameter.device)


def parameter_names(modules: Sequence[nn.Module]) -> dict[int, str]:
    """By identity: the names of one module's parameters, or with the module's position before."""
    names: dict[int, str] = {}
    for position, module in enumerate(modules):
        prefix = f"{position}." if len(modules) > 1 else ""
        for name, parameter in module.named_parameters():
            names.setdefault(id(parameter), prefix + name)
    return names
