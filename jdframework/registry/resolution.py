"""Resolves names to offers and offers to classes, and says what is wrong where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from jdframework import __version__
from jdframework.errors import (
    BlockedNameError,
    NameConflictError,
    PluginLoadError,
    UnknownNameError,
)
from jdframework.protocols.entry_points import DISABLE_VARIABLE
from jdframework.protocols.names import KINDS, Kind, nearest
from jdframework.registry import directory, discovery
from jdframework.registry.discovery import Offer


def resolve(kind: Kind, name: str) -> Any:
    """The class behind a name.

    :param kind: One of the four.
    :param name: A name or an alias, in any spelling.
    :raises UnknownNameError: if no installed plugin offers it.
    :raises NameConflictError: if two distributions offer it.
    :raises PluginLoadError: if it cannot be imported, or is no method of that kind.
    """
    offer = find_offer(kind, name)
    if offer.entry_point is None:
        return discovery.registered_class(offer)
    return _load(offer)


def kinds_of(name: str) -> tuple[Kind, ...]:
    """The kinds in which a name can be resolved; imports no plugin.

    :param name: A name or an alias, in any spelling.

    >>> kinds_of("mean")
    ('weighting', 'scalarizer')
    """
    return tuple(kind for kind in KINDS if is_offered(kind, name))


def is_offered(kind: Kind, name: str) -> bool:
    """Whether an installed plugin, or this program, offers a name as one kind."""
    return bool(discovery.catalogue().find(kind, name))


def find_offer(kind: Kind, name: str) -> Offer:
    """The one offer that a name means.

    :raises UnknownNameError: if no installed plugin offers it.
    :raises NameConflictError: if two distributions offer it.
    """
    catalogue = discovery.catalogue()
    found = catalogue.find(kind, name)
    if not found:
        raise unknown((kind,), name)
    if len(found) > 1:
        raise _conflict(kind, name, found)
    return catalogue.canonical(found[0])


def _conflict(kind: Kind, name: str, offers: tuple[Offer, ...]) -> NameConflictError:
    sources = sorted(str(offer.distribution) for offer in offers)
    return NameConflictError(
        f"the {kind} {name!r} is offered by {' and by '.join(sources)}: uninstall one of them, "
        f"or block one with {DISABLE_VARIABLE}={sources[0]}"
    )


def unknown(kinds: Sequence[Kind], name: str) -> UnknownNameError:
    """What is wrong with a name that none of some kinds has, and what was perhaps meant."""
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
            f"{name!r} is {with_article(others[0])}, not {with_article(what)}: "
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


def with_article(noun: str) -> str:
    """A noun with ``a`` or ``an`` before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


@cache
def _load(offer: Offer) -> Any:
    assert offer.entry_point is not None
    wanted = offer.kernel_wanted()
    if wanted is not None:
        raise PluginLoadError(
            f"the {offer.kind} {offer.name!r} of {source_of(offer)} was made for {wanted}, but "
            f"jdframework {__version__} is installed: pip install --upgrade jdframework "
            f"{offer.distribution}"
        )
    try:
        cls = offer.entry_point.load()
    except (Exception, SystemExit) as error:  # whatever a foreign module raises is one sentence
        raise PluginLoadError(
            f"the {offer.kind} {offer.name!r} of {source_of(offer)} cannot be imported "
            f"({type(error).__name__}: {error}): {_remedy(offer, error)}"
        ) from error
    check_class(offer, cls)
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


def source_of(offer: Offer) -> str:
    """Where an offer comes from: its distribution and version, or its class."""
    if offer.distribution is None:
        return offer.value
    return f"{offer.distribution} {offer.version}"


def check_class(offer: Offer, cls: object) -> None:
    """Refuses a class that is no usable method of its kind.

    :raises PluginLoadError: with everything that is wrong with it.
    """
    from jdframework.bases import mistakes

    found = mistakes(cls, offer.kind)
    if found:
        raise PluginLoadError(
            f"the {offer.kind} {offer.name!r} of {source_of(offer)} is not usable: "
            f"{'; '.join(found)}"
        )
