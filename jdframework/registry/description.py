"""What is offered, and what is known of each: names to descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jdframework.protocols.names import KINDS, Kind, Need, check_kind
from jdframework.registry import discovery
from jdframework.registry.resolution import find_offer, kinds_of, resolve, unknown

if TYPE_CHECKING:
    from jdframework.config import Paper


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
    """What it does, in one sentence."""
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
        raise unknown(KINDS, name)
    wanted = _description_kind(kind, kinds)
    cls = resolve(wanted, name)
    offer = find_offer(wanted, name)
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


def sources(name: str, kind: Kind) -> list[str]:
    """Who offers a name now: distributions, and where this program registered it.

    :param name: A name or an alias, in any spelling.
    :param kind: Of which kind.

    >>> sources("up_grad", "weighting")
    ['jd-plugin-upgrad']
    """
    found = discovery.catalogue().find(kind, name)
    return sorted(offer.distribution or offer.value for offer in found)


def _description_kind(kind: Kind | None, kinds: tuple[Kind, ...]) -> Kind:
    if kind is None:
        return kinds[0]
    check_kind(kind)
    if kind == "aggregator" and kind not in kinds and "weighting" in kinds:
        return "weighting"
    return kind


def _summary(cls: type) -> str:
    lines = (cls.__doc__ or "").strip().splitlines()
    return lines[0].strip() if lines else ""
