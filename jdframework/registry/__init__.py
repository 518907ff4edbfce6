"""Names to offers, offers to classes, specs to instances, classes to descriptions.

In: the entry points of the installed distributions. Out: methods and engines by name. Listing
imports no plugin and not torch; resolving a name imports that one plugin. ``specs`` is the file to
read first.
"""

from __future__ import annotations

from jdframework.registry.description import Method, available, describe, sources
from jdframework.registry.directory import Published, lookup
from jdframework.registry.registering import register, unregister
from jdframework.registry.resolution import kinds_of, resolve
from jdframework.registry.specs import (
    Spec,
    aggregator,
    engine,
    method,
    scalarizer,
    settings_of,
    weighting,
)

__all__ = [
    "Method",
    "Published",
    "Spec",
    "aggregator",
    "available",
    "describe",
    "engine",
    "kinds_of",
    "lookup",
    "method",
    "register",
    "resolve",
    "scalarizer",
    "settings_of",
    "sources",
    "unregister",
    "weighting",
]
