"""What the installed distributions offer, read from entry points without importing any of them.

The steps: entry points -> offers -> those that ``JD_DISABLE_PLUGINS`` leaves. The result is kept
until ``sys.path`` or one of its folders changes, so that a ``pip install`` in a running notebook is
seen.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final

from jdframework import __version__
from jdframework.protocols.entry_points import (
    ALIAS_GROUPS,
    DISABLE_VARIABLE,
    GROUPS,
    blocked_keys,
    distribution_of,
    path_state,
)
from jdframework.protocols.names import Kind, key

KERNEL: Final = "jdframework"


@dataclass(frozen=True)
class Offer:
    """One name that one distribution offers."""

    kind: Kind
    name: str
    value: str
    """Where the class is, as ``module:Class``."""
    entry_point: importlib.metadata.EntryPoint | None = field(repr=False)
    """None for what the program itself registered."""
    is_alias: bool = False

    @cached_property
    def distribution(self) -> str | None:
        """The distribution's name; None for what the program itself registered."""
        return distribution_of(self.entry_point)

    @cached_property
    def version(self) -> str | None:
        """The distribution's version."""
        dist = getattr(self.entry_point, "dist", None)
        return None if dist is None else str(dist.version)

    def kernel_wanted(self) -> str | None:
        """Which releases of the kernel the distribution asks for; None if this is one of them."""
        from packaging.requirements import InvalidRequirement, Requirement

        for text in getattr(getattr(self.entry_point, "dist", None), "requires", None) or ():
            try:
                required = Requirement(text)
            except InvalidRequirement:  # not about the kernel, or pip had not installed it
                continue
            is_kernel = key(required.name) == key(KERNEL)
            if is_kernel and not required.specifier.contains(__version__, prereleases=True):
                return str(required)
        return None

    @cached_property
    def summary(self) -> str:
        """The distribution's one-line summary, empty where its metadata has none."""
        dist = getattr(self.entry_point, "dist", None)
        return "" if dist is None else str(dist.metadata.get("Summary") or "")


@dataclass(frozen=True)
class Catalogue:
    """Every offer, found by kind and by the key of its name."""

    offers: dict[tuple[Kind, str], tuple[Offer, ...]]
    blocked: dict[tuple[Kind, str], tuple[Offer, ...]]

    def find(self, kind: Kind, name: str) -> tuple[Offer, ...]:
        """The offers that ``name`` means; canonical names go before aliases."""
        return self._chosen(self.offers, kind, name)

    def find_blocked(self, kind: Kind, name: str) -> tuple[Offer, ...]:
        """Likewise, among those that ``JD_DISABLE_PLUGINS`` blocks."""
        return self._chosen(self.blocked, kind, name)

    def canonical(self, offer: Offer) -> Offer:
        """The offer that an alias stands for: same kind, class and distribution."""
        if not offer.is_alias:
            return offer
        for candidate in self.all(offer.kind):
            if (candidate.value, candidate.distribution) == (offer.value, offer.distribution):
                return candidate
        return offer

    def all(self, kind: Kind | None = None) -> Iterator[Offer]:
        """Every canonical offer, of one kind or of all."""
        for (offered_kind, _), offers in self.offers.items():
            if kind in (None, offered_kind):
                yield from (offer for offer in offers if not offer.is_alias)

    def names(self, kind: Kind | None = None) -> list[str]:
        """The sorted canonical names."""
        return sorted({offer.name for offer in self.all(kind)})

    def aliases(self, offer: Offer) -> tuple[str, ...]:
        """The sorted aliases of ``offer``."""
        known = (other for offers in self.offers.values() for other in offers if other.is_alias)
        return tuple(sorted(alias.name for alias in known if self.canonical(alias) == offer))

    @staticmethod
    def _chosen(
        table: dict[tuple[Kind, str], tuple[Offer, ...]], kind: Kind, name: str
    ) -> tuple[Offer, ...]:
        found = table.get((kind, key(name)), ())
        return tuple(offer for offer in found if not offer.is_alias) or found


_registered: dict[tuple[Kind, str], tuple[Offer, type]] = {}


def catalogue() -> Catalogue:
    """What is offered now: installed, registered by the program, and not blocked."""
    return _catalogue(
        path_state(), os.environ.get(DISABLE_VARIABLE, ""), tuple(_registered_offers())
    )


def add_registered(offer: Offer, cls: type) -> None:
    """Adds a class that the program itself registered."""
    _registered[offer.kind, key(offer.name)] = (offer, cls)


def remove_registered(kind: Kind, name: str) -> bool:
    """Takes it out again; False if it was not there."""
    return _registered.pop((kind, key(name)), None) is not None


def registered_class(offer: Offer) -> type:
    """The class behind an offer that the program itself registered."""
    return _registered[offer.kind, key(offer.name)][1]


@lru_cache(maxsize=8)
def _catalogue(
    path_state: tuple[tuple[str, int], ...], disabled: str, registered: tuple[Offer, ...]
) -> Catalogue:
    everything = [*registered, *_installed_offers(path_state)]
    keys = blocked_keys(disabled)
    values = {(offer.kind, offer.value) for offer in everything if _is_named(offer, keys)}
    blocked = [offer for offer in everything if (offer.kind, offer.value) in values]
    offered = [offer for offer in everything if (offer.kind, offer.value) not in values]
    return Catalogue(offers=_by_key(offered), blocked=_by_key(blocked))


@lru_cache(maxsize=2)
def _installed_offers(path_state: tuple[tuple[str, int], ...]) -> tuple[Offer, ...]:
    found = importlib.metadata.entry_points()
    return tuple(
        Offer(kind, entry.name, entry.value, entry, is_alias)
        for groups, is_alias in ((GROUPS, False), (ALIAS_GROUPS, True))
        for kind, group in groups.items()
        for entry in found.select(group=group)
    )


def _registered_offers() -> Iterable[Offer]:
    return (offer for offer, _ in _registered.values())


def _by_key(offers: Iterable[Offer]) -> dict[tuple[Kind, str], tuple[Offer, ...]]:
    table: dict[tuple[Kind, str], tuple[Offer, ...]] = {}
    for offer in offers:
        place = (offer.kind, key(offer.name))
        table[place] = (*table.get(place, ()), offer)
    return table


def _is_named(offer: Offer, blocked: frozenset[str]) -> bool:
    if not blocked:
        return False
    return bool({key(offer.name), key(offer.distribution or "")} & blocked)
