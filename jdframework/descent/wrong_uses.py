"""Refuses common mistakes in the use of ``Descent``, with the line that was meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final, SupportsIndex

from torch import Tensor, nn
from torch.optim import Optimizer

from jdframework.errors import ConfigError

_OWN: Final = ("batch_dim", "engine", "on", "on_nonfinite", "process_group")
"""The keywords of a Descent that are not the method's."""
_SQUEEZED: Final = {keyword.replace("_", ""): keyword for keyword in _OWN}
_METHODS: Final = ("weighting", "aggregator", "scalarizer")


def check_modules(modules: object, method: object) -> None:
    """Refuses what is given in place of modules, with the line that was meant.

    :param modules: What was given first.
    :param method: What was given second.
    :raises ConfigError: if it is an optimizer, a class, a method, or named modules or parameters.
    """
    if isinstance(modules, Optimizer):
        raise ConfigError(
            "an optimizer was given in place of the model: jd.Descent(model, …) fills .grad, and "
            "optimizer.step() goes on as ever"
        )
    if isinstance(modules, type):
        raise ConfigError(
            f"the class {modules.__name__} was given in place of the model: make an instance, "
            f"model = {modules.__name__}(…), and then jd.Descent(model, …)"
        )
    spec = _spec_in_words(modules)
    if spec is not None:
        raise ConfigError(f"the model goes first, and then the method: jd.Descent(model, {spec})")
    if isinstance(modules, Mapping):
        raise ConfigError(f"a mapping was given in place of the model: {_without_names(modules)}")
    if isinstance(modules, Sequence) and any(isinstance(one, Mapping) for one in modules):
        raise ConfigError(
            "mappings, as an optimizer's param_groups, were given in place of the model: "
            "jd.Descent(model, …), or jd.Descent(model.parameters(), …)"
        )


def _spec_in_words(modules: object) -> str | None:
    """What was given first, if it is a method; None if it is none."""
    if _kind(modules) in _METHODS:
        return f"{getattr(modules, 'name', '…')!r}"
    if isinstance(modules, str):
        return repr(modules)
    if isinstance(modules, Mapping) and isinstance(modules.get("name"), str):
        return f"{{'name': {modules['name']!r}, …}}"
    return None


def _without_names(modules: Mapping[Any, Any]) -> str:
    """The line for who has modules or tensors by their names."""
    if modules and all(isinstance(module, nn.Module) for module in modules.values()):
        return "give the modules without their names, jd.Descent([*modules.values()], …)"
    return "jd.Descent(model, …), or jd.Descent(model.parameters(), …)"


def check_method(method: object) -> None:
    """Refuses what is given in place of a method's spec, with the line that was meant.

    :param method: What was given.
    :raises ConfigError: if it is a class, a method of torchjd, an optimizer, an engine, or a model.
    """
    if isinstance(method, type):
        raise ConfigError(
            f"the class {method.__name__} was given, but an instance is needed: "
            f"{method.__name__}(…), or the method's name"
        )
    if type(method).__module__.partition(".")[0] == "torchjd":
        name = type(method).__name__.removesuffix("Weighting")
        raise ConfigError(
            f"torchjd's {type(method).__name__} was given, but jd.Descent takes methods of "
            f"jdframework: 'Migrating from torchjd' in the documentation lists their names, as in "
            f"jd.Descent(model, {name.lower()!r})"
        )
    if isinstance(method, Optimizer):
        raise ConfigError(
            "an optimizer was given in place of the method: jd.Descent(model, 'upgrad') fills "
            ".grad, and optimizer.step() goes on as ever"
        )
    if _kind(method) == "engine":
        raise ConfigError(
            "an engine was given in place of the method: jd.Descent(model, 'upgrad', engine=…)"
        )
    if isinstance(method, nn.Module) and _kind(method) not in _METHODS:
        raise ConfigError(
            f"a module, {type(method).__name__}, was given in place of the method: several modules "
            f"go into one list, jd.Descent([trunk, head], 'upgrad')"
        )


def check_engine(engine: object) -> None:
    """Refuses what is given in place of an engine's spec, with the line that was meant.

    :param engine: What was given.
    :raises ConfigError: if it is neither a name, a mapping, nor an engine.
    """
    if isinstance(engine, str | Mapping) or (
        not isinstance(engine, type) and _kind(engine) == "engine"
    ):
        return
    if isinstance(engine, type):
        what, name = f"the class {engine.__name__} was", getattr(engine, "name", "auto")
    else:
        what, name = f"engine={_in_words(engine)} was", "auto"
    raise ConfigError(
        f"{what} given, but needed is an engine's name, or an engine: "
        f"jd.Descent(model, …, engine={name if isinstance(name, str) else 'auto'!r})"
    )


def check_batch_dim(batch_dim: object) -> None:
    """Refuses a dimension that is no whole number.

    :param batch_dim: What was given.
    :raises ConfigError: if it is neither None nor a whole number.
    """
    is_whole = isinstance(batch_dim, SupportsIndex) and not isinstance(batch_dim, bool)
    if batch_dim is None or is_whole:
        return
    raise ConfigError(
        f"batch_dim={_in_words(batch_dim)} was given, but needed is the number of the losses' "
        f"dimension of independent instances, batch_dim=0, or None where there is none"
    )


def check_scaler(scaler: object) -> None:
    """Refuses what is no gradient scaler.

    :param scaler: What was given.
    :raises TypeError: if it cannot scale.
    """
    if scaler is not None and not callable(getattr(scaler, "scale", None)):
        raise TypeError(
            f"scaler={_in_words(scaler)} was given, but needed is the scaler itself: "
            f"scaler=torch.amp.GradScaler()"
        )


def check_keywords(config: Mapping[str, Any], fields: Iterable[str]) -> None:
    """Refuses a keyword that is nearly one of Descent's own.

    :param config: What was taken for the method's settings.
    :param fields: The settings that the method has.
    :raises ConfigError: naming the keyword that was meant.
    """
    known = set(fields)
    for keyword in config:
        meant = _nearly_own(keyword)
        if keyword not in known and meant is not None:
            raise ConfigError(
                f"{keyword} = {config[keyword]!r} was given, which is no setting of the method: "
                f"did you mean {meant}={config[keyword]!r}?"
            )


def check_assignment(method: Any, attribute: str, value: object) -> None:
    """Refuses to take for an attribute what was meant to change the Descent.

    :param method: The method that the Descent has.
    :param attribute: What is assigned to.
    :param value: What is assigned.
    :raises ConfigError: if it is a setting of the Descent or of its method, or the method itself.
    """
    if attribute.startswith("_"):
        return
    name = getattr(method, "name", "…")
    fields = getattr(type(getattr(method, "config", None)), "model_fields", {})
    if attribute == "method":
        if value is method:
            return
        line = "jd.Descent(model, …)"
    elif attribute == "config":
        line = f"jd.Descent(model, {name!r}, …)"
    elif attribute in fields:
        if attribute in getattr(method, "assignable", ()):
            raise ConfigError(
                f"{attribute} is a setting of the method: "
                f"descent.method.{attribute} = {_in_words(value)}"
            )
        line = f"jd.Descent(model, {name!r}, {attribute}={_in_words(value)})"
    else:
        meant = attribute if attribute in _OWN else _nearly_own(attribute)
        if meant is None:
            return
        line = f"jd.Descent(model, {name!r}, {meant}={_in_words(value)})"
    raise ConfigError(
        f"descent.{attribute} cannot be assigned: what a Descent was made with is fixed; make a "
        f"new one, {line}"
    )


def _nearly_own(keyword: str) -> str | None:
    """The keyword of a Descent that is spelled nearly so; None if there is none."""
    close = get_close_matches(keyword.replace("_", ""), _SQUEEZED, n=1, cutoff=0.8)
    return _SQUEEZED[close[0]] if close else None


def _kind(given: object) -> object:
    """What an object of the framework is; asks a class, as a module may take any attribute."""
    return getattr(type(given), "kind", None)


def _in_words(given: object) -> str:
    """What was given, in a few characters."""
    if isinstance(given, nn.Module | Optimizer | Tensor) or len(repr(given)) > 40:
        return f"<{type(given).__name__}>"
    return repr(given)
