"""Specs to instances: what a name, a mapping or a ready instance means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from jdframework.errors import ConfigError
from jdframework.protocols.names import KINDS, Kind
from jdframework.registry.resolution import is_offered, resolve, unknown, with_article

if TYPE_CHECKING:
    from torch import nn

    from jdframework.bases import WeightedSum
    from jdframework.protocols import Aggregator, Engine, Scalarizer, Weighting

_LONGEST: Final = 60
"""How many characters of what was given by mistake a message shows."""

Spec: TypeAlias = "str | Mapping[str, Any] | object"
"""A name, a mapping ``{"name": …, **config}``, or a ready instance."""


def weighting(spec: Spec, /, **config: Any) -> Weighting:
    """The weighting that ``spec`` names: ``weights = weighting(gramian)``.

    :param spec: A name, a mapping ``{"name": …, **config}``, or an instance, handed back as it is.
    :param config: Settings of the method.
    :raises UnknownNameError: if no installed plugin offers the name.
    :raises ConfigError: if the method does not take these settings.

    >>> import torch
    >>> weighting("mean")(torch.eye(4))
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    return cast("Weighting", _from_spec("weighting", spec, config))


def aggregator(spec: Spec, /, **config: Any) -> Aggregator:
    """The aggregator that ``spec`` names: ``direction = aggregator(jacobian)``.

    Where no aggregator has the name, the weighting of that name becomes ``Jᵀw``.

    :param spec: A name, a mapping, or an instance of an aggregator or a weighting.
    :param config: Settings of the method.
    :raises UnknownNameError: if no installed plugin offers the name.
    :raises ConfigError: if the method does not take these settings.

    >>> import torch
    >>> aggregator("sum")(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([4., 6.])
    """
    found = method(spec, prefer=("aggregator", "weighting"), **config)
    if found.kind == "weighting":
        found = _weighted_sum(found)
    return cast("Aggregator", found)


def scalarizer(spec: Spec, /, **config: Any) -> Scalarizer:
    """The scalarizer that ``spec`` names: ``loss = scalarizer(losses)``.

    :param spec: A name, a mapping ``{"name": …, **config}``, or an instance, handed back as it is.
    :param config: Settings of the method.
    :raises UnknownNameError: if no installed plugin offers the name.
    :raises ConfigError: if the method does not take these settings.

    >>> import torch
    >>> scalarizer("mean")(torch.tensor([1.0, 3.0]))
    tensor(2.)
    """
    return cast("Scalarizer", _from_spec("scalarizer", spec, config))


def engine(spec: Spec, /, *modules: nn.Module, **config: Any) -> Engine:
    """The engine that ``spec`` names, made for ``modules``.

    :param spec: A name, a mapping ``{"name": …, **config}``, or an instance, handed back as it is.
    :param modules: The modules whose parameters the objectives share.
    :param config: Settings of the engine.
    :raises UnknownNameError: if no installed plugin offers the name.
    :raises ConfigError: if the engine does not take these settings.
    :raises UnsupportedModelError: if the engine cannot serve the modules.
    """
    return cast("Engine", _from_spec("engine", spec, config, modules))


def method(spec: Spec, /, *, prefer: Sequence[Kind], **config: Any) -> Any:
    """The method that ``spec`` names, of the first of some kinds that offers the name.

    :param spec: A name, a mapping ``{"name": …, **config}``, or an instance, handed back as it is.
    :param prefer: The kinds to look in, the preferred one first.
    :param config: Settings of the method.
    :raises UnknownNameError: if no installed plugin offers the name in any of the kinds.
    :raises ConfigError: if the method does not take these settings.
    """
    name, settings = _split(spec, config)
    if name is None:
        return _checked_instance(prefer, spec, settings)
    kind = next((kind for kind in prefer if is_offered(kind, name)), None)
    if kind is None:
        raise unknown(prefer, name)
    return _from_name(kind, name, settings)


def settings_of(spec: Spec, prefer: Sequence[Kind]) -> list[str]:
    """The names of the settings that a method takes; none of an instance, or of no name.

    :param spec: As for :func:`method`.
    :param prefer: Likewise.
    """
    name = spec if isinstance(spec, str) else None
    if isinstance(spec, Mapping):
        name = str(spec.get("name"))
    kind = next((kind for kind in prefer if name is not None and is_offered(kind, name)), None)
    return [] if kind is None or name is None else list(resolve(kind, name).Config.model_fields)


def _from_spec(
    kind: Kind, spec: Spec, config: Mapping[str, Any], modules: tuple[Any, ...] = ()
) -> object:
    name, settings = _split(spec, config)
    if name is None:
        return _checked_instance((kind,), spec, settings, modules)
    return _from_name(kind, name, settings, modules)


def _from_name(
    kind: Kind, name: str, settings: Mapping[str, Any], modules: tuple[Any, ...] = ()
) -> Any:
    made = resolve(kind, name)(*modules, **settings)
    _tell_observers(made)
    return made


def _split(spec: Spec, config: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The name (None for an instance) and all settings."""
    if isinstance(spec, str):
        return spec, dict(config)
    if not isinstance(spec, Mapping):
        return None, dict(config)
    settings = {str(field): value for field, value in spec.items()}
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(
            f"a spec needs the key 'name' with a string, but {_briefly(spec)} was given"
        )
    twice = sorted(settings.keys() & config.keys())
    if twice:
        raise ConfigError(f"{name}: {', '.join(twice)} was given both in the spec and as a keyword")
    return name, settings | dict(config)


def _briefly(given: object) -> str:
    """Type and value, without the page that a model or a tensor prints."""
    written = repr(given)
    return type(given).__name__ + (f" {written}" if len(written) <= _LONGEST else "")


def _checked_instance(
    kinds: Sequence[Kind],
    instance: object,
    settings: Mapping[str, Any],
    modules: tuple[Any, ...] = (),
) -> Any:
    found = _kind_of_instance(instance)
    if found not in kinds:
        what = with_article(found) if found else _briefly(instance)
        raise ConfigError(
            f"needed is a name, a mapping with 'name', or an instance of "
            f"{with_article(' or '.join(kinds))}, not {what}"
        )
    if settings or modules:
        extra = ", ".join(settings) or "modules"
        raise ConfigError(
            f"{type(instance).__name__} is ready-made and takes no more settings: "
            f"give {extra} to its constructor"
        )
    return instance


def _kind_of_instance(instance: object) -> Kind | None:
    return next((k for k in KINDS if getattr(type(instance), "kind", None) == k), None)


def _weighted_sum(inner: Weighting) -> WeightedSum:
    from jdframework.bases import WeightedSum

    return WeightedSum(inner)


def _tell_observers(made: object) -> None:
    from jdframework import hooks

    hooks.call("jd_resolved", method=made)
