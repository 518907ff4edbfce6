"""The plan of a step: which parameters go layer by layer, and which one objective at a time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torch import nn

from jdframework.errors import UnsupportedModelError

from jd_plugin_autogram.batch_axis import batch_axis_key
from jd_plugin_autogram.contributions import (
    BroadcastContribution,
    CallContribution,
    Contribution,
    ParameterUseContribution,
)
from jd_plugin_autogram.dependencies import Dependencies
from jd_plugin_autogram.layout import Layout, agrees, candidates
from jd_plugin_autogram.objectives import Instances, Objectives
from jd_plugin_autogram.probe_cache import Place, ProbeCache
from jd_plugin_autogram.selection import selection


@dataclass(frozen=True)
class Plan:
    """The uses that are understood, and the parameters for which they are not enough."""

    contributions: list[Contribution]
    layouts: list[list[Layout]]
    """Per contribution and output."""
    fallback: list[nn.Parameter]
    """Parameters whose rows take one pass for each objective."""
    axis_key: Hashable | None = "whole"
    """What batches have in common whose instances lie alike; None if it is this one's alone."""

    def groups(self, passes: int, size: int) -> list[list[int]]:
        """The contributions, in groups whose gradients fit into memory; one, if all of them do.

        Uses of one parameter are never parted.

        :param passes: How many gradients each output has.
        :param size: How many bytes there are.
        """
        groups: list[list[int]] = [[]]
        filled = 0
        for cluster in _clusters(self.contributions):
            needed = passes * sum(self.contributions[i].size for i in cluster)
            if groups[-1] and filled + needed > size:
                groups.append([])
                filled = 0
            groups[-1] += cluster
            filled += needed
        return groups


def make_plan(
    objectives: Objectives,
    dependencies: Dependencies,
    parameters: Sequence[nn.Parameter],
    cache: ProbeCache,
) -> Plan:
    """Finds out where the instances lie, and with that what can be done layer by layer.

    :param objectives: What is differentiated.
    :param dependencies: What they depend on.
    :param parameters: Those that count.
    :param cache: What was found before; it is added to.
    :raises UnsupportedModelError: if no layer keeps the instances separate.
    """
    contributions, fallback = _divided(objectives, dependencies, parameters)
    per_instance = isinstance(objectives, Instances) and objectives.n > 1
    axis_key = batch_axis_key(dependencies.nodes, objectives.n) if per_instance else "whole"
    layouts = _layouts(objectives, contributions, dependencies, cache, axis_key)
    lost = [v for v, own in zip(contributions, layouts, strict=True) if None in own]
    mixed = next(
        (contribution for contribution in lost if isinstance(contribution, CallContribution)), None
    )
    if mixed is not None and len(lost) == len(contributions):
        raise UnsupportedModelError(_why_mixed(mixed, dependencies, objectives.n))
    fallback |= {id(p): p for contribution in lost for p in contribution.wanted}
    kept, places = [], []
    for contribution, own in zip(contributions, layouts, strict=True):
        contribution.wanted = [p for p in contribution.wanted if id(p) not in fallback]
        if contribution.wanted:
            kept.append(contribution)
            places.append([layout for layout in own if layout is not None])
    return Plan(kept, places, list(fallback.values()), axis_key)


def sketch_plan(
    objectives: Objectives, dependencies: Dependencies, parameters: Sequence[nn.Parameter]
) -> Plan:
    """What the graph alone tells of the plan, before any backward pass: no layouts.

    :param objectives: What is differentiated.
    :param dependencies: What they depend on.
    :param parameters: Those that count.
    """
    contributions, fallback = _divided(objectives, dependencies, parameters)
    for contribution in contributions:
        contribution.wanted = [p for p in contribution.wanted if id(p) not in fallback]
    return Plan(
        [contribution for contribution in contributions if contribution.wanted],
        [],
        list(fallback.values()),
    )


def _why_mixed(mixed: CallContribution, dependencies: Dependencies, n: int) -> str:
    """Why no layer keeps the instances separate, and the remedy."""
    picking = selection(dependencies.nodes, n)
    if picking is not None:
        return (
            f"the losses are those of some instances of the batch, picked by a mask or an index "
            f"({picking.name()}): give the losses of all, torch.where(mask, losses, 0), or use "
            f"batch_dim=None, or engine='autojac'"
        )
    return (
        f"the gradient at the layer {type(mixed.call.layer).__name__} does not fall apart into "
        f"instances: a loss does not depend on just its own instance, or the instances' order "
        f"changes on the way; use batch_dim=None, or engine='autojac'"
    )


def _divided(
    objectives: Objectives, dependencies: Dependencies, parameters: Sequence[nn.Parameter]
) -> tuple[list[Contribution], dict[int, nn.Parameter]]:
    """The uses that are understood, and by identity the parameters that need a pass each."""
    reached = {id(leaf) for leaf in dependencies.unrecognised}
    fallback = {id(p): p for p in parameters if id(p) in reached}
    contributions = _contributions(dependencies, {id(p) for p in parameters} - fallback.keys())
    if objectives.n == 1:
        costly = [v for v in contributions if not v.saves(objectives.k)]
        fallback |= {id(p): p for contribution in costly for p in contribution.wanted}
    return contributions, fallback


def _contributions(dependencies: Dependencies, wanted: set[int]) -> list[Contribution]:
    """One for each use of a parameter that is wanted."""
    contributions: list[Contribution] = []
    for call, edges in dependencies.calls:
        own = [p for p in call.layer.parameters() if p.requires_grad and id(p) in wanted]
        contributions += [CallContribution(call, edges, own)] if own else []
    for call, broadcast in dependencies.broadcast_calls:
        own = [p for p in call.layer.parameters() if p.requires_grad and id(p) in wanted]
        contributions += [BroadcastContribution(broadcast, call, own)] if own else []
    contributions += [
        ParameterUseContribution(use)
        for use in dependencies.parameter_uses
        if id(use.part.parameter) in wanted
    ]
    return contributions


def _layouts(
    objectives: Objectives,
    contributions: Sequence[Contribution],
    dependencies: Dependencies,
    cache: ProbeCache,
    axis_key: Hashable | None,
) -> list[list[Layout | None]]:
    """Per contribution and output; None where its gradient does not fall apart into instances."""
    if not isinstance(objectives, Instances) or objectives.n == 1:
        return [[Layout(1)] * len(contribution.edges) for contribution in contributions]
    kind = (
        dependencies.kind,
        tuple(len(contribution.wanted) for contribution in contributions),
        axis_key,
    )
    known = None if axis_key is None else cache.places(kind)
    found = _remembered(contributions, known, objectives.n)
    if found is not None:
        return found
    options = _agreeing(objectives, contributions)
    if axis_key is not None and all(len(agreeing) <= 1 for own in options for agreeing in own):
        cache.remember(kind, _places(contributions, options))
    return [[agreeing[0] if agreeing else None for agreeing in own] for own in options]


def _agreeing(
    objectives: Instances, contributions: Sequence[Contribution]
) -> list[list[list[Layout]]]:
    """Every way in which the instances may lie, given what one more backward pass shows."""
    edges = [edge for contribution in contributions for edge in contribution.edges]
    plain, scaled, factors = objectives.probe(edges)
    gradients = iter(zip(plain, scaled, strict=True))
    found: list[list[list[Layout]]] = []
    for contribution in contributions:
        own = []
        for shape, (gradient, other) in zip(contribution.shapes, gradients, strict=False):
            options = list(candidates(shape, objectives.n, contribution.dims(shape)))
            if gradient is not None and other is not None:
                options = [x for x in options if agrees(x, gradient, other, factors)]
            own.append(options)
        found.append(own)
    return found


def _places(
    contributions: Sequence[Contribution], options: list[list[list[Layout]]]
) -> list[Place]:
    """What is true of the next batch, too: not which index is faster, if there is but one."""
    found: list[Place] = []
    for contribution, own in zip(contributions, options, strict=True):
        for shape, agreeing in zip(contribution.shapes, own, strict=True):
            layout = agreeing[0] if agreeing else None
            several = layout is not None and shape[layout.dim] > layout.n
            minor = layout.minor if layout is not None and several else None
            found.append(None if layout is None else (layout.dim, minor))
    return found


def _remembered(
    contributions: Sequence[Contribution], places: Sequence[Place] | None, n: int
) -> list[list[Layout | None]] | None:
    """None if nothing was found before that tells where the instances lie now."""
    if places is None:
        return None
    left = iter(places)
    found: list[list[Layout | None]] = []
    for contribution in contributions:
        own: list[Layout | None] = []
        for shape, place in zip(contribution.shapes, left, strict=False):
            if place is None:
                own.append(None)
                continue
            dim, minor = place
            if shape[dim] % n or (minor is None and shape[dim] > n):
                return None
            own.append(Layout(n, dim, bool(minor) and shape[dim] > n))
        found.append(own)
    return found


def _clusters(contributions: Sequence[Contribution]) -> list[list[int]]:
    """The contributions' numbers; those that share a parameter are together.

    A loop may call one layer thousands of times, so that this takes no more than linear time.
    """
    earlier = list(range(len(contributions)))

    def first(number: int) -> int:
        while earlier[number] != number:
            earlier[number] = number = earlier[earlier[number]]
        return number

    of_parameter: dict[int, int] = {}
    for number, contribution in enumerate(contributions):
        for parameter in contribution.wanted:
            one, other = first(of_parameter.setdefault(id(parameter), number)), first(number)
            earlier[max(one, other)] = min(one, other)
    clusters: dict[int, list[int]] = {}
    for number in range(len(contributions)):
        clusters.setdefault(first(number), []).append(number)
    return list(clusters.values())
