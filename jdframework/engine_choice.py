"""Which engine serves a method on a model, when the user leaves it open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from jdframework import registry
from jdframework.errors import JDError, UnsupportedModelError
from jdframework.protocols import Engine


def cheapest(modules: Sequence[nn.Module], method: Any, batch_dim: int | None) -> Engine:
    """The cheapest installed engine that serves the method and the model.

    :param modules: The modules whose parameters the objectives share.
    :param method: A weighting or an aggregator.
    :param batch_dim: The dimension of independent instances, if each is an objective.
    :raises UnknownNameError: if no engine is installed.
    :raises UnsupportedModelError: if none can serve, with each one's reason.
    """
    refusals = []
    for cls in _by_cost():
        lacking = required(method) - cls.capabilities
        if lacking:
            refusals.append(f"{cls.name} has no {' and no '.join(sorted(lacking))}")
            continue
        try:
            return registry.engine(cls.name, *modules, batch_dim=batch_dim)
        except UnsupportedModelError as error:
            refusals.append(str(error))
    raise UnsupportedModelError(
        f"no installed engine can serve {method.name!r} on this model: {'; '.join(refusals)}"
    )


def required(method: Any) -> frozenset[str]:
    """What an engine must be capable of, to serve the method."""
    needs_rows = not method.needs.isdisjoint({"jacobian", "cross-gramian"})
    return frozenset({"jacobian"} if needs_rows else {"gramian"})


def _by_cost() -> list[Any]:
    names = registry.available("engine")
    found = []
    for name in names:
        try:
            found.append(registry.resolve("engine", name))
        except JDError:  # a broken or clashing engine must not stop the ones that work
            continue
    if not found:
        registry.resolve("engine", "autojac")
    return sorted(found, key=lambda cls: (cls.cost, cls.name))
