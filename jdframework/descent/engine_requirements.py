"""What an engine must be able to form, to serve a method."""

from __future__ import annotations

from typing import Any, Final

from jdframework.linearization.combination import need_of, treats_groups

WRITTEN: Final = {"gramian": "Gramian", "jacobian": "Jacobian"}
"""How messages write what an engine forms."""


def required(method: Any) -> frozenset[str]:
    """The capabilities that an engine must have, to serve the method.

    :param method: A weighting or an aggregator.
    """
    needs_rows = not method.needs.isdisjoint({"jacobian", "cross-gramian"})
    if method.kind == "aggregator" and not treats_groups(method):
        needs_rows = needs_rows or need_of(method, 0) != "gramian"
    return frozenset({"jacobian"} if needs_rows else {"gramian"})


def lacks(method: Any, lacking: frozenset[str]) -> str:
    """Why an engine without some capabilities does not serve, in words.

    :param method: A weighting or an aggregator.
    :param lacking: The capabilities.
    """
    needed = " and the ".join(WRITTEN[one] for one in sorted(lacking))
    return f"forms no {needed}, which {method.name} needs"
