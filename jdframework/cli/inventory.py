"""What is installed, one entry per name and distribution, read without importing any plugin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from jdframework.protocols.entry_points import DISABLE_VARIABLE
from jdframework.protocols.names import Kind, key
from jdframework.registry import discovery
from jdframework.registry.discovery import Catalogue, Offer

Status: TypeAlias = Literal["ok", "clash", "blocked"]


@dataclass(frozen=True)
class Entry:
    """One name that one distribution offers, for all the kinds in which it is in one state."""

    name: str
    kinds: tuple[Kind, ...]
    aliases: tuple[str, ...]
    distribution: str | None
    version: str | None
    summary: str
    status: Status
    reason: str
    """Why it cannot be used; empty where it can."""


def entries(kind: Kind | None = None) -> list[Entry]:
    """Every entry, sorted by name, of one kind or of all."""
    catalogue = discovery.catalogue()
    grouped: dict[tuple[str, str, Status], list[Offer]] = {}
    for offer, status in _offers(catalogue, kind):
        place = (key(offer.name), offer.distribution or "", status)
        grouped.setdefault(place, []).append(offer)
    return [_entry(catalogue, grouped[place], place[2]) for place in sorted(grouped)]


def _offers(catalogue: Catalogue, kind: Kind | None) -> Iterator[tuple[Offer, Status]]:
    for offer in catalogue.all(kind):
        yield offer, "clash" if len(catalogue.find(offer.kind, offer.name)) > 1 else "ok"
    for offer in _canonical(catalogue.blocked.values()):
        if kind in (None, offer.kind):
            yield offer, "blocked"


def _canonical(groups: Iterable[tuple[Offer, ...]]) -> Iterator[Offer]:
    return (offer for group in groups for offer in group if not offer.is_alias)


def _entry(catalogue: Catalogue, offers: list[Offer], status: Status) -> Entry:
    first = offers[0]
    aliases = {alias for offer in offers for alias in catalogue.aliases(offer)}
    return Entry(
        name=first.name,
        kinds=tuple(dict.fromkeys(offer.kind for offer in offers)),
        aliases=tuple(sorted(aliases)),
        distribution=first.distribution,
        version=first.version,
        summary=first.summary,
        status=status,
        reason=_reason(catalogue, first, status),
    )


def _reason(catalogue: Catalogue, offer: Offer, status: Status) -> str:
    if status == "blocked":
        return f"the environment variable {DISABLE_VARIABLE} blocks it"
    if status == "ok":
        return ""
    rivals = catalogue.find(offer.kind, offer.name)
    sources = sorted({str(rival.distribution) for rival in rivals})
    return (
        f"offered by {' and by '.join(sources)}: uninstall one of them, "
        f"or block one with {DISABLE_VARIABLE}={sources[0]}"
    )
