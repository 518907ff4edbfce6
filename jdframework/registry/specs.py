"""Names to classes, specs to instances, classes to descriptions.

Resolving a name imports that one plugin; listing imports none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from jdframework import __version__
from jdframework.errors import (
    BlockedNameError,
    ConfigError,
    NameConflictError,
    PluginLoadError,
    UnknownNameError,
)
from jdframework.protocols.entry_points import DISABLE_VARIABLE
from jdframework.protocols.names import KINDS, Kind, Need, check_kind, is_canonical, nearest
from jdframework.registry import directory, discovery
from jdframework.registry.discovery import Offer

if TYPE_CHECKING:
    from torch import nn

    from jdframework.bases import WeightedSum
    from jdframework.config import Paper
    from jdframework.protocols import Aggregator, Engine, Scalarizer, Weighting

Spec: TypeAlias = "str | Mapping[str, Any] | object"
"""A name, a mapping ``{"name": …, **config}``, or a ready instance."""

_Class = TypeVar("_Class", bound=type)


@dataclass(frozen=True)
class Method:
    """What is known of one method or engine."""

    name: str
    """The canonical name."""
    kinds: tuple[Kind, ...]
    """Every kind that has the name."""
    aliases: tuple[str, ...]
    """Other names that resolve to it, sorted."""
    summary: str
    """One sentence."""
    paper: Paper | None
    """Where it was published; None where it was not."""
    needs: frozenset[Need]
    """What it looks at."""
    stateful: bool
    """Whether it keeps something between steps."""
    trainable: bool
    """Whether it has parameters for the optimizer."""
    config_schema: Mapping[str, Any]
    """The JSON schema of its settings."""
    distribution: str | None
    """What to ``pip install``; None for a class that this program registered."""
    version: str | None
    """The distribution's."""


def available(kind: Kind | None = None) -> list[str]:
    """The sorted canonical names that can be resolved; imports no plugin and not torch.

    :param kind: Only names of this kind; of every kind when None.
    :raises ValueError: if there is no such kind.

    >>> "upgrad" in available("weighting")
    True
    """
    return discovery.catalogue().names(None if kind is None else check_kind(kind))


def describe(name: str, kind: Kind | None = None) -> Method:
    """What is known of ``name``; imports its plugin.

    :param kind: Which of the kinds that share the name; the first that has it when None.
    :raises UnknownNameError: if no installed plugin offers it.

    >>> describe("UPGrad").needs
    frozenset({'gramian'})
    """
    kinds = kinds_of(name)
    if kind is None and not kinds:
        raise _unknown(KINDS, name)
    wanted = _description_kind(kind, kinds)
    cls = resolve(wanted, name)
    offer = _offer(wanted, name)
    return Method(
        name=offer.name,
        kinds=kinds,
        aliases=discovery.catalogue().aliases(offer),
        summary=_summary(cls),
        paper=cls.paper,
        needs=frozenset(cls.needs),
        stateful=callable(getattr(cls, "reset", None)),
        trainable=bool(cls.trainable),
        config_schema=cls.Config.model_json_schema(),
        distribution=offer.distribution,
        version=offer.version,
    )


def kinds_of(name: str) -> tuple[Kind, ...]:
    """The kinds in which a name can be resolved; imports no plugin.

    :param name: A name or an alias, in any spelling.

    >>> kinds_of("mean")
    ('weighting', 'scalarizer')
    """
    return tuple(kind for kind in KINDS if _is_offered(kind, name))


def sources(name: str, kind: Kind) -> list[str]:
    """Who offers a name now: distributions, and where this program registered it.

    :param name: A name or an alias, in any spelling.
    :param kind: Of which kind.

    >>> sources("up_grad", "weighting")
    ['jd-plugin-upgrad']
    """
    found = discovery.catalogue().find(kind, name)
    return sorted(offer.distribution or offer.value for offer in found)


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
    kind = next((kind for kind in prefer if _is_offered(kind, name)), None)
    if kind is None:
        raise _unknown(prefer, name)
    return _from_name(kind, name, settings)


def settings_of(spec: Spec, prefer: Sequence[Kind]) -> list[str]:
    """The names of the settings that a method takes; none of an instance, or of no name.

    :param spec: As for :func:`method`.
    :param prefer: Likewise.
    """
    name = spec if isinstance(spec, str) else None
    if isinstance(spec, Mapping):
        name = str(spec.get("name"))
    kind = next((kind for kind in prefer if name is not None and _is_offered(kind, name)), None)
    return [] if kind is None or name is None else list(resolve(kind, name).Config.model_fields)


def register(kind: Kind, name: str) -> Callable[[_Class], _Class]:
    """Makes a class resolvable by name in this process, without packaging: for notebooks.

    The class goes through the same validation as a plugin's. Running the cell again replaces it.

    :param kind: What the class is.
    :param name: Its canonical name, in kebab-case.
    :raises ValueError: if the name is not in kebab-case or there is no such kind.
    :raises NameConflictError: if another class, or an installed plugin, has the name.
    :raises PluginLoadError: if the class is no method of that kind.
    """
    check_kind(kind)
    if not is_canonical(name):
        raise ValueError(
            f"{name!r} is no canonical name: use lower case and hyphens, as in 'my-method'"
        )

    def add(cls: _Class) -> _Class:
        offer = Offer(kind, name, _place_of(cls), None)
        _check_free(offer)
        _check_class(offer, cls)
        discovery.add_registered(offer, cls)
        cast(Any, cls).name = name
        return cls

    return add


def unregister(kind: Kind, name: str) -> None:
    """Takes back what :func:`register` added.

    :param kind: As it was registered.
    :param name: Likewise, in any spelling.
    :raises UnknownNameError: if the program registered no such name.
    """
    if not discovery.remove_registered(check_kind(kind), name):
        raise UnknownNameError(f"no {kind} {name!r} was registered by this program")


def resolve(kind: Kind, name: str) -> Any:
    """The class behind a name.

    :param kind: One of the four.
    :param name: A name or an alias, in any spelling.
    :raises UnknownNameError: if no installed plugin offers it.
    :raises NameConflictError: if two distributions offer it.
    :raises PluginLoadError: if it cannot be imported, or is no method of that kind.
    """
    offer = _offer(kind, name)
    if offer.entry_point is None:
        return discovery.registered_class(offer)
    return _load(offer)


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
        raise ConfigError(f"a spec needs the key 'name' with a string, but {spec!r} was given")
    twice = sorted(settings.keys() & config.keys())
    if twice:
        raise ConfigError(f"{name}: {', '.join(twice)} was given both in the spec and as a keyword")
    return name, settings | dict(config)


def _checked_instance(
    kinds: Sequence[Kind],
    instance: object,
    settings: Mapping[str, Any],
    modules: tuple[Any, ...] = (),
) -> Any:
    found = _kind_of_instance(instance)
    if found not in kinds:
        what = _with_article(found) if found else f"{type(instance).__name__} {instance!r}"
        raise ConfigError(
            f"needed is a name, a mapping with 'name', or an instance of "
            f"{_with_article(' or '.join(kinds))}, not {what}"
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


def _is_offered(kind: Kind, name: str) -> bool:
    return bool(discovery.catalogue().find(kind, name))


def _description_kind(kind: Kind | None, kinds: tuple[Kind, ...]) -> Kind:
    if kind is None:
        return kinds[0]
    check_kind(kind)
    if kind == "aggregator" and kind not in kinds and "weighting" in kinds:
        return "weighting"
    return kind


def _offer(kind: Kind, name: str) -> Offer:
    catalogue = discovery.catalogue()
    found = catalogue.find(kind, name)
    if not found:
        raise _unknown((kind,), name)
    if len(found) > 1:
        raise _conflict(kind, name, found)
    return catalogue.canonical(found[0])


def _conflict(kind: Kind, name: str, offers: tuple[Offer, ...]) -> NameConflictError:
    sources = sorted(str(offer.distribution) for offer in offers)
    return NameConflictError(
        f"the {kind} {name!r} is offered by {' and by '.join(sources)}: uninstall one of them, "
        f"or block one with {DISABLE_VARIABLE}={sources[0]}"
    )


def _unknown(kinds: Sequence[Kind], name: str) -> UnknownNameError:
    catalogue = discovery.catalogue()
    what = kinds[0] if len(kinds) == 1 else _several(kinds)
    if any(catalogue.find_blocked(kind, name) for kind in kinds):
        return BlockedNameError(
            f"the {what} {name!r} is installed, but the environment variable "
            f"{DISABLE_VARIABLE} blocks it"
        )
    others = kinds_of(name)
    if others:
        return UnknownNameError(
            f"{name!r} is {_with_article(others[0])}, not {_with_article(what)}: "
            f"use jd.{others[0]}({name!r})"
        )
    published = next(filter(None, (directory.lookup(name, kind) for kind in (*kinds, None))), None)
    if published is not None:
        return UnknownNameError(
            f"the {published['kind']} {published['name']!r} is not installed: "
            f"pip install {published['distribution']}"
        )
    known = [known for kind in kinds for known in (*catalogue.names(kind), *_published(kind))]
    close = nearest(name, known)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "see jd.available()"
    return UnknownNameError(f"no {what} is called {name!r}: {hint}")


def _several(kinds: Sequence[Kind]) -> str:
    if set(kinds) == {"aggregator", "weighting"}:
        return "aggregator or weighting"
    return "method or engine" if "engine" in kinds else "method"


def _published(kind: Kind) -> list[str]:
    return [entry["name"] for entry in directory.published() if entry["kind"] == kind]


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


@cache
def _load(offer: Offer) -> Any:
    assert offer.entry_point is not None
    wanted = offer.kernel_wanted()
    if wanted is not None:
        raise PluginLoadError(
            f"the {offer.kind} {offer.name!r} of {_source(offer)} was made for {wanted}, but "
            f"jdframework {__version__} is installed: pip install --upgrade jdframework "
            f"{offer.distribution}"
        )
    try:
        cls = offer.entry_point.load()
    except (Exception, SystemExit) as error:  # whatever a foreign module raises is one sentence
        raise PluginLoadError(
            f"the {offer.kind} {offer.name!r} of {_source(offer)} cannot be imported "
            f"({type(error).__name__}: {error}): {_remedy(offer, error)}"
        ) from error
    _check_class(offer, cls)
    cls.name = offer.name
    return cls


def _remedy(offer: Offer, error: BaseException) -> str:
    module, _, attribute = offer.value.partition(":")
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and not f"{module}.".startswith(f"{missing}."):
        return f"it needs the package {missing.partition('.')[0]!r}, which is not installed"
    stale = isinstance(error, AttributeError) and repr(attribute) in str(error)
    if missing or stale:
        return (
            f"what is installed is not what its metadata says, as after an editable install whose "
            f"entry points changed: pip install --force-reinstall {offer.distribution}"
        )
    return "reinstall or remove that distribution"


def _place_of(cls: object) -> str:
    """``module:Class``; of what is no class, which is refused next, as it prints."""
    return f"{cls.__module__}:{cls.__qualname__}" if isinstance(cls, type) else repr(cls)


def _source(offer: Offer) -> str:
    if offer.distribution is None:
        return offer.value
    return f"{offer.distribution} {offer.version}"


def _check_class(offer: Offer, cls: object) -> None:
    from jdframework.bases import mistakes

    found = mistakes(cls, offer.kind)
    if found:
        raise PluginLoadError(
            f"the {offer.kind} {offer.name!r} of {_source(offer)} is not usable: {'; '.join(found)}"
        )


def _check_free(offer: Offer) -> None:
    for other in discovery.catalogue().find(offer.kind, offer.name):
        same_class = other.entry_point is None and other.value == offer.value
        if not same_class:
            raise NameConflictError(
                f"the {offer.kind} {offer.name!r} is taken by {_source(other)}: choose another "
                f"name, or jd.unregister({offer.kind!r}, {offer.name!r}) if you registered it"
            )


def _summary(cls: type) -> str:
    lines = (cls.__doc__ or "").strip().splitlines()
    return lines[0].strip() if lines else ""
