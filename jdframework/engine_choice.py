"""Which engine serves a method on a model, when the user leaves it open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from jdframework import hooks, registry
from jdframework.errors import JDError, UnsupportedModelError
from jdframework.protocols import Engine


class Automatic:
    """The cheapest installed engine that serves a method on a model, and then the next ones.

    Engines refuse a model when they are made, or at a step, once they have seen its graph; the
    next cheapest one takes over.

    :param modules: The modules whose parameters the objectives share.
    :param method: A weighting or an aggregator.
    :param batch_dim: The dimension of independent instances, if each is an objective.
    :raises UnknownNameError: if no engine is installed.
    :raises UnsupportedModelError: if none can serve, with each one's reason.
    """

    def __init__(self, modules: Sequence[nn.Module], method: Any, batch_dim: int | None) -> None:
        self._modules, self._method, self._batch_dim = modules, method, batch_dim
        self._untried = _by_cost()
        self._refusals: list[str] = []
        self.engine = self._next()

    def replace(self, refusal: UnsupportedModelError) -> Engine:
        """Goes on with the next engine.

        :param refusal: Why the present one cannot serve.
        :raises UnsupportedModelError: if there is no other, with each one's reason.
        """
        self.engine.close()
        self._refusals.append(str(refusal))
        hooks.call("jd_fallback", name=self.engine.name, reason=str(refusal))
        self.engine = self._next()
        return self.engine

    def _next(self) -> Engine:
        while self._untried:
            cls = self._untried.pop(0)
            lacking = required(self._method) - cls.capabilities
            if lacking:
                self._refusals.append(f"{cls.name} has no {' and no '.join(sorted(lacking))}")
                continue
            try:
                return registry.engine(cls.name, *self._modules, batch_dim=self._batch_dim)
            except UnsupportedModelError as error:
                self._refusals.append(str(error))
        raise UnsupportedModelError(
            f"no installed engine can serve {self._method.name!r} on this model: "
            f"{'; '.join(self._refusals)}"
        )


def required(method: Any) -> frozenset[str]:
    """What an engine must be capable of, to serve the method."""
    needs_rows = not method.needs.isdisjoint({"jacobian", "cross-gramian"})
    return frozenset({"jacobian"} if needs_rows else {"gramian"})


def _by_cost() -> list[Any]:
    found = []
    for name in registry.available("engine"):
        try:
            found.append(registry.resolve("engine", name))
        except JDError:  # a broken or clashing engine must not stop the ones that work
            continue
    if not found:
        found.append(registry.resolve("engine", "autojac"))
    return sorted(found, key=lambda cls: (cls.cost, cls.name))
