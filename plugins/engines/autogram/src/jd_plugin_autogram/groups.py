"""Which weighting serves which parameters: one all of them, or one each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from jdframework.bases import WeightedSum
from jdframework.combination import groups_of, weights_of
from jdframework.errors import UnsupportedModelError
from jdframework.outcome import Check, Outcome
from jdframework.protocols import TreatsGroups


@dataclass(frozen=True)
class Groups:
    """The weightings, and the number of each parameter's."""

    weightings: Sequence[Any]
    owners: Mapping[int, int]
    """By a parameter's identity."""
    treated_apart: bool
    """Whether the method treats groups of parameters apart, so that no weights are those of all."""

    def weighted(
        self, parts: Mapping[int, Tensor], values: Tensor, check: Check | None
    ) -> tuple[dict[int, Tensor], Outcome]:
        """Each group's weights, and what is reported of them.

        :param parts: The Gramian of each group that the losses depend on.
        :param values: The losses.
        :param check: Is shown the Gramian of all parameters first.
        """
        first, *rest = parts.values()
        gramian = sum((part.to(first.device) for part in rest), start=first)
        if check is not None:
            check(gramian)
        weights = {
            number: weights_of(self.weightings[number], part, (), values)
            for number, part in parts.items()
        }
        of_all = None if self.treated_apart else next(iter(weights.values()))
        return weights, Outcome(of_all, gramian)


def groups_for(method: Any, parameters: Sequence[nn.Parameter]) -> Groups:
    """What a method makes of an engine's parameters.

    :param method: A weighting, or what treats groups of parameters apart, a weighting each.
    :param parameters: In the engine's order.
    :raises UnsupportedModelError: if it needs the Jacobian.
    """
    apart = isinstance(method, TreatsGroups)
    chosen = groups_of(method, len(parameters))
    weightings = [_weighting_of(inner) for inner, _ in chosen]
    owners = {id(parameters[i]): number for number, (_, own) in enumerate(chosen) for i in own}
    return Groups(weightings, owners, apart)


def _weighting_of(method: Any) -> Any:
    weighting: Any = method.weighting if isinstance(method, WeightedSum) else method
    if weighting.kind != "weighting" or "jacobian" in weighting.needs:
        raise UnsupportedModelError(
            f"{weighting.name!r} needs the Jacobian, which autogram never forms: "
            f"use engine='autojac'"
        )
    return weighting
