"""What of a step is done layer by layer, and what one objective at a time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torch import nn

from jdframework.errors import UnsupportedModelError

from jd_plugin_autogram.experience import Experience, Place
from jd_plugin_autogram.layout import Layout, agrees, candidates
from jd_plugin_autogram.objectives import Instances, Objectives
from jd_plugin_autogram.rearranging import arrangement
from jd_plugin_autogram.routes import Routes
from jd_plugin_autogram.visits import BareVisit, CallVisit, SpreadVisit, Visit


@dataclass(frozen=True)
class Plan:
    """The uses that are understood, and the parameters for which they are not enough."""

    visits: list[Visit]
    layouts: list[list[Layout]]
    """Per visit and output."""
    around: list[nn.Parameter]
    """Parameters whose rows take one pass for each objective."""
    arranged: Hashable | None = "whole"
    """What batches have in common whose instances lie alike; None if it is this one's alone."""

    def groups(self, passes: int, size: int) -> list[list[int]]:
        """The visits, in groups whose gradients fit into some memory; one, if all of them do.

        Uses of one parameter are never parted.

        :param passes: How many gradients each output has.
        :param size: How many bytes there are.
        """
        groups: list[list[int]] = [[]]
        filled = 0
        for cluster in _clusters(self.visits):
            needed = passes * sum(self.visits[i].size for i in cluster)
            if groups[-1] and filled + needed > size:
                groups.append([])
                filled = 0
            groups[-1] += cluster
            filled += needed
        return groups


def planned(
    objectives: Objectives,
    routes: Routes,
    parameters: Sequence[nn.Parameter],
    experience: Experience,
) -> Plan:
    """Finds out where the instances lie, and with that what can be done layer by layer.

    :param objectives: What is differentiated.
    :param routes: What they depend on.
    :param parameters: Those that count.
    :param experience: What was found before; it is added to.
    :raises UnsupportedModelError: if no layer keeps the instances apart.
    """
    visits, around = _divided(objectives, routes, parameters)
    apart = isinstance(objectives, Instances) and objectives.n > 1
    arranged = arrangement(routes.nodes, objectives.n) if apart else "whole"
    layouts = _layouts(objectives, visits, routes, experience, arranged)
    lost = [v for v, own in zip(visits, layouts, strict=True) if None in own]
    mixed = next((visit for visit in lost if isinstance(visit, CallVisit)), None)
    if mixed is not None and len(lost) == len(visits):
        raise UnsupportedModelError(
            f"the gradient at the layer {type(mixed.call.layer).__name__} does not fall apart into "
            f"instances: a loss does not depend on just its own instance, or the instances' order "
            f"changes on the way; use batch_dim=None, or engine='autojac'"
        )
    around |= {id(p): p for visit in lost for p in visit.wanted}
    kept, places = [], []
    for visit, own in zip(visits, layouts, strict=True):
        visit.wanted = [p for p in visit.wanted if id(p) not in around]
        if visit.wanted:
            kept.append(visit)
            places.append([layout for layout in own if layout is not None])
    return Plan(kept, places, list(around.values()), arranged)


def sketched(objectives: Objectives, routes: Routes, parameters: Sequence[nn.Parameter]) -> Plan:
    """What the graph alone tells of the plan, before any backward pass: no layouts.

    :param objectives: What is differentiated.
    :param routes: What they depend on.
    :param parameters: Those that count.
    """
    visits, around = _divided(objectives, routes, parameters)
    for visit in visits:
        visit.wanted = [p for p in visit.wanted if id(p) not in around]
    return Plan([visit for visit in visits if visit.wanted], [], list(around.values()))


def _divided(
    objectives: Objectives, routes: Routes, parameters: Sequence[nn.Parameter]
) -> tuple[list[Visit], dict[int, nn.Parameter]]:
    """The uses that are understood, and by identity the parameters that need a pass each."""
    reached = {id(leaf) for leaf in routes.around}
    # A hook on a parameter sees whole gradients, which only autograd's own rows are.
    around = {id(p): p for p in parameters if id(p) in reached or p._backward_hooks}
    visits = _visits(routes, {id(p) for p in parameters} - around.keys())
    if objectives.n == 1:
        dear = [v for v in visits if not v.saves(objectives.k)]
        around |= {id(p): p for visit in dear for p in visit.wanted}
    return visits, around


def _visits(routes: Routes, wanted: set[int]) -> list[Visit]:
    """One for each use of a parameter that is wanted."""
    visits: list[Visit] = []
    for call, edges in routes.calls:
        own = [p for p in call.layer.parameters() if p.requires_grad and id(p) in wanted]
        visits += [CallVisit(call, edges, own)] if own else []
    for call, spread in routes.spread:
        own = [p for p in call.layer.parameters() if p.requires_grad and id(p) in wanted]
        visits += [SpreadVisit(spread, call, own)] if own else []
    visits += [BareVisit(use) for use in routes.bare if id(use.part.parameter) in wanted]
    return visits


def _layouts(
    objectives: Objectives,
    visits: Sequence[Visit],
    routes: Routes,
    experience: Experience,
    arranged: Hashable | None,
) -> list[list[Layout | None]]:
    """Per visit and output; None where its gradient does not fall apart into instances."""
    if not isinstance(objectives, Instances) or objectives.n == 1:
        return [[Layout(1)] * len(visit.edges) for visit in visits]
    kind = (routes.kind, tuple(len(visit.wanted) for visit in visits), arranged)
    known = None if arranged is None else experience.places(kind)
    found = _remembered(visits, known, objectives.n)
    if found is not None:
        return found
    options = _agreeing(objectives, visits)
    if arranged is not None and all(len(agreeing) <= 1 for own in options for agreeing in own):
        experience.remember(kind, _places(visits, options))
    return [[agreeing[0] if agreeing else None for agreeing in own] for own in options]


def _agreeing(objectives: Instances, visits: Sequence[Visit]) -> list[list[list[Layout]]]:
    """Every way in which the instances may lie, given what one more backward pass shows."""
    edges = [edge for visit in visits for edge in visit.edges]
    plain, scaled, factors = objectives.probe(edges)
    gradients = iter(zip(plain, scaled, strict=True))
    found: list[list[list[Layout]]] = []
    for visit in visits:
        own = []
        for shape, (gradient, other) in zip(visit.shapes, gradients, strict=False):
            options = list(candidates(shape, objectives.n, visit.dims(shape)))
            if gradient is not None and other is not None:
                options = [x for x in options if agrees(x, gradient, other, factors)]
            own.append(options)
        found.append(own)
    return found


def _places(visits: Sequence[Visit], options: list[list[list[Layout]]]) -> list[Place]:
    """What is true of the next batch, too: not which index is faster, if there is but one."""
    found: list[Place] = []
    for visit, own in zip(visits, options, strict=True):
        for shape, agreeing in zip(visit.shapes, own, strict=True):
            layout = agreeing[0] if agreeing else None
            several = layout is not None and shape[layout.dim] > layout.n
            minor = layout.minor if layout is not None and several else None
            found.append(None if layout is None else (layout.dim, minor))
    return found


def _remembered(
    visits: Sequence[Visit], places: Sequence[Place] | None, n: int
) -> list[list[Layout | None]] | None:
    """None if nothing was found before that tells where the instances lie now."""
    if places is None:
        return None
    left = iter(places)
    found: list[list[Layout | None]] = []
    for visit in visits:
        own: list[Layout | None] = []
        for shape, place in zip(visit.shapes, left, strict=False):
            if place is None:
                own.append(None)
                continue
            dim, minor = place
            if shape[dim] % n or (minor is None and shape[dim] > n):
                return None
            own.append(Layout(n, dim, bool(minor) and shape[dim] > n))
        found.append(own)
    return found


def _clusters(visits: Sequence[Visit]) -> list[list[int]]:
    """The visits' numbers; those that share a parameter are together."""
    clusters: dict[int, list[int]] = {}
    of_parameter: dict[int, int] = {}
    for number, visit in enumerate(visits):
        met = {of_parameter[id(p)] for p in visit.wanted if id(p) in of_parameter}
        together = [i for name in met for i in clusters.pop(name)]
        clusters[number] = sorted([*together, number])
        for i in clusters[number]:
            of_parameter |= {id(p): number for p in visits[i].wanted}
    return list(clusters.values())
