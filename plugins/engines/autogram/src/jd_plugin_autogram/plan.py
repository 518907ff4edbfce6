"""The plan of a step: which parameters go layer by layer, and which one objective at a time."""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import Node

from jdframework.autograd.graph import place_of
from jdframework.errors import UnsupportedModelError

from jd_plugin_autogram.batch_axis import AxisKey, batch_axis_key
from jd_plugin_autogram.contributions import (
    BroadcastContribution,
    CallContribution,
    Contribution,
    ParameterUseContribution,
)
from jd_plugin_autogram.dependencies import Dependencies
from jd_plugin_autogram.layout import Layout, agrees, candidates
from jd_plugin_autogram.meetings import Separation, slow_operations
from jd_plugin_autogram.objectives import Instances, Objectives
from jd_plugin_autogram.probe_cache import ProbeCache, Separated, Where
from jd_plugin_autogram.recording import Call
from jd_plugin_autogram.selection import selection
from jd_plugin_autogram.separation import Separations


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
    slow: tuple[str, ...] = ()
    """The operations that are differentiated an instance at a time."""
    cut_off: Sequence[nn.Parameter] = ()
    """In a sketch: parameters whose rows are found where instances separate."""

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
    if isinstance(objectives, Instances) and objectives.n > 1:
        return _plan_of_instances(objectives, dependencies, parameters, cache)
    contributions, fallback = _divided(objectives, dependencies, parameters)
    kept = _without(contributions, fallback)
    layouts = [[Layout(1)] * len(contribution.edges) for contribution in kept]
    return Plan(kept, layouts, list(fallback.values()))


def _plan_of_instances(
    objectives: Instances,
    dependencies: Dependencies,
    parameters: Sequence[nn.Parameter],
    cache: ProbeCache,
) -> Plan:
    """As :func:`make_plan`, with parameters cut off from where their instances' shares begin."""
    fallback = _fallback(dependencies.overlapping, parameters)
    contributions = _contributions(dependencies, {id(p) for p in parameters} - fallback.keys())
    before = cache.separated(dependencies.names)
    pairs = enumerate(dependencies.numbered)
    nodes = [node for number, node in pairs if before is None or number not in before.below]
    axis_key = batch_axis_key(nodes, objectives.n)
    layouts = _layouts(objectives, contributions, dependencies, cache, axis_key)
    uses = list(zip(contributions, layouts, strict=True))
    lost = [use for use, own in uses if None in own]
    kept = [(use, [x for x in own if x is not None]) for use, own in uses if None not in own]
    loose = _fallback(dependencies.unrecognised, parameters)
    starts = {number: [place_of(p)] for number, p in loose.items() if number not in fallback}
    for use in lost:
        loose |= {id(p): p for p in use.wanted}
        for p in use.wanted:
            starts.setdefault(id(p), []).extend(use.places)
    counted = _counted([use for use, _ in kept], starts)
    search = Separations(objectives, dependencies, starts, counted)
    separations = _separations(search, before, loose, dependencies, cache) if starts else []
    separated = {id(p) for separation in separations for p in separation.wanted}
    fallback |= {number: p for number, p in loose.items() if number not in separated}
    if contributions and not kept and not (separations and all(s.of_shared for s in separations)):
        _refuse_mixed(lost, dependencies.nodes, objectives.n)
    return Plan(
        [*_without([use for use, _ in kept], fallback), *separations],
        [own for use, own in kept if use.wanted] + [found.layouts for found in separations],
        list(fallback.values()),
        axis_key,
        slow_operations(meeting for found in separations for meeting in found.meetings),
    )


def _separations(
    search: Separations,
    before: Separated | None,
    loose: Mapping[int, nn.Parameter],
    dependencies: Dependencies,
    cache: ProbeCache,
) -> list[Separation]:
    """What cuts parameters off, as it was on the last such graph, or by a new search."""
    names = dependencies.names
    if before is None or not search.recall(before):
        search.search()
        found = search.to_remember(cache.searched(names))
        if found is not None:
            cache.remember_separated(names, found)
    return [
        Separation(meetings, [loose[i] for i in numbers], names, cache)
        for meetings, numbers in search.allowed().items()
    ]


def _counted(contributions: Sequence[Contribution], wanted: Container[int]) -> dict[int, set[Node]]:
    """By a wanted parameter's identity, the nodes at whose outputs its uses are counted."""
    found: dict[int, set[Node]] = {}
    for contribution in contributions:
        for p in contribution.wanted:
            if id(p) in wanted:
                found.setdefault(id(p), set()).update(contribution.nodes)
    return found


def _refuse_mixed(lost: Sequence[Contribution], nodes: Iterable[Node], n: int) -> None:
    """Refuses losses of which none depends on just its own instance, as far as layers tell."""
    mixed = next((use for use in lost if isinstance(use, CallContribution)), None)
    if mixed is None:
        return
    picking = selection(nodes, n)
    if picking is not None:
        raise UnsupportedModelError(
            f"the losses are those of some instances of the batch, picked by a mask or an index "
            f"({picking.name()}): give the losses of all, torch.where(mask, losses, 0), or use "
            f"batch_dim=None, or engine='autojac'"
        )
    raise UnsupportedModelError(
        f"the gradient at the layer {type(mixed.call.layer).__name__} does not fall apart into "
        f"instances: a loss does not depend on just its own instance, or the instances' order "
        f"changes on the way; use batch_dim=None, or engine='autojac'"
    )


def _without(
    contributions: Sequence[Contribution], fallback: Mapping[int, nn.Parameter]
) -> list[Contribution]:
    """The contributions, of which nothing that is in the fallback is wanted."""
    for contribution in contributions:
        contribution.wanted = [p for p in contribution.wanted if id(p) not in fallback]
    return [contribution for contribution in contributions if contribution.wanted]


def _fallback(
    reached: Sequence[Tensor], parameters: Sequence[nn.Parameter]
) -> dict[int, nn.Parameter]:
    """Those of the parameters that are among some leaves, by identity."""
    identities = {id(leaf) for leaf in reached}
    return {id(p): p for p in parameters if id(p) in identities}


def sketch_plan(
    objectives: Objectives,
    dependencies: Dependencies,
    parameters: Sequence[nn.Parameter],
    cache: ProbeCache,
) -> Plan:
    """What the graph and earlier steps tell of the plan, before any backward pass: no layouts.

    :param objectives: What is differentiated.
    :param dependencies: What they depend on.
    :param parameters: Those that count.
    :param cache: What was found before.
    """
    contributions, fallback = _divided(objectives, dependencies, parameters)
    slow: tuple[str, ...] = ()
    cut_off: list[nn.Parameter] = []
    if objectives.n > 1:
        loose = list(_fallback(dependencies.unrecognised, parameters).items())
        known = cache.separated(dependencies.names)
        slow = () if known is None else known.slow
        for place, (number, p) in enumerate(loose):
            if known is None or known.meetings[place] is not None:
                fallback.pop(number, None)
                cut_off.append(p)
    left = _without(contributions, fallback)
    return Plan(left, [], list(fallback.values()), slow=slow, cut_off=cut_off)


def _divided(
    objectives: Objectives, dependencies: Dependencies, parameters: Sequence[nn.Parameter]
) -> tuple[list[Contribution], dict[int, nn.Parameter]]:
    """The uses that are understood, and by identity the parameters that need a pass each."""
    reached = [*dependencies.unrecognised, *dependencies.overlapping]
    fallback = _fallback(reached, parameters)
    contributions = _contributions(dependencies, {id(p) for p in parameters} - fallback.keys())
    if objectives.n == 1:
        costly = [v for v in contributions if not v.saves(objectives.k)]
        fallback |= {id(p): p for contribution in costly for p in contribution.wanted}
    return contributions, fallback


def _contributions(dependencies: Dependencies, wanted: set[int]) -> list[Contribution]:
    """One for each use of a parameter that is wanted."""
    contributions: list[Contribution] = []
    for call, edges in dependencies.calls:
        own = _wanted(call, wanted)
        contributions += [CallContribution(call, edges, own)] if own else []
    for call, broadcast in dependencies.broadcast_calls:
        own = _wanted(call, wanted)
        contributions += [BroadcastContribution(broadcast, call, own)] if own else []
    contributions += [
        ParameterUseContribution(use)
        for use in dependencies.parameter_uses
        if id(use.part.parameter) in wanted
    ]
    return contributions


def _wanted(call: Call, wanted: Set[int]) -> list[nn.Parameter]:
    parameters = (p for p in call.state.values() if isinstance(p, nn.Parameter))
    return [p for p in parameters if p.requires_grad and id(p) in wanted]


def _layouts(
    objectives: Instances,
    contributions: Sequence[Contribution],
    dependencies: Dependencies,
    cache: ProbeCache,
    axis_key: AxisKey | None,
) -> list[list[Layout | None]]:
    """Per contribution and output; None where its gradient does not fall apart into instances."""
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
        found_places = _places(contributions, options)
        first = all(place is None or place[0] == 0 for place in found_places)
        if first or not axis_key.leading:
            cache.remember(kind, found_places)
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
) -> list[Where]:
    """What is true of the next batch, too: not which index is faster, if there is but one."""
    found: list[Where] = []
    for contribution, own in zip(contributions, options, strict=True):
        for shape, agreeing in zip(contribution.shapes, own, strict=True):
            layout = agreeing[0] if agreeing else None
            several = layout is not None and shape[layout.dim] > layout.n
            minor = layout.minor if layout is not None and several else None
            found.append(None if layout is None else (layout.dim, minor))
    return found


def _remembered(
    contributions: Sequence[Contribution], places: Sequence[Where] | None, n: int
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
