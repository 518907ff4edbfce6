"""What the shell offers after the tabulator key: ``autocompletion=`` of an option or argument."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from jdframework.protocols.names import KINDS, Kind, key
from jdframework.registry import discovery
from jdframework.registry.discovery import Offer

__all__ = ["method_lists", "names"]

_METHOD_KINDS: Final[tuple[Kind, ...]] = ("weighting", "aggregator", "scalarizer")


def names(incomplete: str) -> list[tuple[str, str]]:
    """The names of methods and engines that begin with a text, each with its summary.

    :param incomplete: What the user has typed.

    >>> [name for name, summary in names("upgr")]
    ['upgrad']
    """
    return [(offer.name, offer.summary) for offer in _beginning_with(incomplete, KINDS)]


def method_lists(incomplete: str) -> list[tuple[str, str]]:
    """Completes the last name of a list like ``sum,uw,up``; names no method twice.

    :param incomplete: What the user has typed.

    >>> [name for name, summary in method_lists("sum,upgr")]
    ['sum,upgrad']
    """
    before, comma, last = incomplete.rpartition(",")
    taken = {key(name) for name in before.split(",")}
    return [
        (f"{before}{comma}{offer.name}", offer.summary)
        for offer in _beginning_with(last, _METHOD_KINDS)
        if key(offer.name) not in taken
    ]


def _beginning_with(incomplete: str, kinds: Sequence[Kind]) -> Iterator[Offer]:
    offers = (offer for kind in kinds for offer in discovery.catalogue().all(kind))
    by_name = {offer.name: offer for offer in offers}
    return (by_name[name] for name in sorted(by_name) if name.startswith(incomplete))
