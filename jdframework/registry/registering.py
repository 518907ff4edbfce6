"""Classes that a program registers itself, without packaging: for notebooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from jdframework.errors import NameConflictError, UnknownNameError
from jdframework.protocols.names import Kind, check_kind, is_canonical
from jdframework.registry import discovery
from jdframework.registry.discovery import Offer
from jdframework.registry.resolution import check_class, source_of

_Class = TypeVar("_Class", bound=type)


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
        check_class(offer, cls)
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


def _place_of(cls: object) -> str:
    """``module:Class``; of what is no class, which is refused next, as it prints."""
    return f"{cls.__module__}:{cls.__qualname__}" if isinstance(cls, type) else repr(cls)


def _check_free(offer: Offer) -> None:
    for other in discovery.catalogue().find(offer.kind, offer.name):
        same_class = other.entry_point is None and other.value == offer.value
        if not same_class:
            raise NameConflictError(
                f"the {offer.kind} {offer.name!r} is taken by {source_of(other)}: choose another "
                f"name, or jd.unregister({offer.kind!r}, {offer.name!r}) if you registered it"
            )
