"""One step: the Gramian from what the plan says, and the update from what was kept of it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jd_plugin_autogram.objectives import Objectives, differentiated
from jd_plugin_autogram.pieces import Piece, Rows, apart
from jd_plugin_autogram.plan import Plan
from jd_plugin_autogram.routes import Routes


@dataclass
class Step:
    """What is known of one step.

    :param objectives: What is differentiated.
    :param routes: What they depend on.
    :param plan: What is done layer by layer.
    :param parameters: Those that the Gramian is of.
    :param owners: By a parameter's identity, its group's number; each has its own Gramian.
    :param outside: Other leaves, which get their share of the update.
    :param size: How many bytes may be kept from the Gramian for the update.
    """

    objectives: Objectives
    routes: Routes
    plan: Plan
    parameters: Sequence[nn.Parameter]
    owners: Mapping[int, int]
    outside: Sequence[Tensor]
    size: int
    _pieces: list[Piece] | None = field(default=None, init=False)

    @property
    def kind(self) -> Hashable:
        """What it has in common with other steps that are right if it is."""
        return self.routes.kind, self.plan.arranged

    @torch.no_grad()
    def gramians(self, *, retain_graph: bool, keep: bool) -> dict[int, Float[Tensor, "m m"]]:
        """The Gramian of each group that the losses depend on, in the order of the losses.

        :param retain_graph: Whether the graph is needed for something else.
        :param keep: Whether the update will be asked for.
        :raises ValueError: if the losses depend on none of the parameters.
        """
        plan, objectives = self.plan, self.objectives
        groups = plan.groups(objectives.k, self.size)
        fused = keep and len(groups) == 1
        last = not retain_graph and fused and not self.outside
        totals: dict[int, Tensor] = {}
        kept: list[Piece] = []
        together = objectives.n == 1
        if plan.around and not together:
            rows = objectives.of_parameters(plan.around, not last or bool(plan.visits))
            kept = _as_rows(plan.around, rows)
            self._add(totals, kept)
        for number, group in enumerate(groups):
            aside = plan.around if together and number == 0 else []
            pieces = self._pieces_of(group, aside, retain_graph=not last)
            self._add(totals, pieces)
            kept += pieces if fused else []
        if not totals:
            raise ValueError(
                "the losses depend on no parameter of the engine's modules that requires "
                "gradients: are these the modules that computed them?"
            )
        self._pieces = kept if fused else None
        return {number: objectives.permuted(totals[number]) for number in sorted(totals)}

    @torch.no_grad()
    def update(
        self, weights: Mapping[int, Float[Tensor, " m"]], retain_graph: bool
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """What the weighted losses give each parameter, and each other leaf.

        :param weights: Of each group, in the losses' order; of one, if there are other leaves.
        :param retain_graph: Whether the graph can be used again.
        """
        ordered = {number: self.objectives.in_order(own) for number, own in weights.items()}
        targets: list[Tensor] = []
        found: list[Tensor | None] = []
        for piece in self._pieces or ():
            targets.append(piece.parameter)
            found.append(piece.gradient(ordered[self._owner(piece.parameter)]))
        for left, (number, own) in zip(reversed(range(len(ordered))), ordered.items(), strict=True):
            rest = [] if self._pieces is not None else self._owned(number)
            rest += self.outside
            start = self.objectives.weighted(own)
            found += differentiated(start, rest, retain_graph or left > 0)
            targets += rest
        return targets, found

    def _add(self, totals: dict[int, Tensor], pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            number, found = self._owner(piece.parameter), piece.gramian()
            total = totals.get(number)
            totals[number] = found if total is None else total + found.to(total.device)

    def _owner(self, parameter: Tensor) -> int:
        return self.owners[id(parameter)]

    def _owned(self, number: int) -> list[Tensor]:
        return [p for p in self.parameters if self.owners[id(p)] == number]

    def _pieces_of(
        self, group: Sequence[int], aside: Sequence[nn.Parameter], *, retain_graph: bool
    ) -> list[Piece]:
        """One per parameter, or part of one, that the visits of a group use, and per other one.

        :param group: The visits' numbers.
        :param aside: Parameters whose rows are found on the same passes.
        :param retain_graph: Whether the graph is needed for something else.
        """
        plan, objectives = self.plan, self.objectives
        visits = [plan.visits[i] for i in group]
        edges = [edge for visit in visits for edge in visit.edges]
        found, rows = objectives.of_outputs(edges, retain_graph, aside)
        by_parameter: dict[int, list[Piece]] = {}
        for number, visit in zip(group, visits, strict=True):
            own = [found.pop(0) for _ in visit.edges]
            if all(gradient is None for gradient in own):
                continue
            for piece in visit.pieces(own, plan.layouts[number]):
                by_parameter.setdefault(id(piece.parameter), []).append(piece)
        pieces = [piece for several in by_parameter.values() for piece in apart(several)]
        return [*pieces, *_as_rows(aside, rows)]


def _as_rows(parameters: Sequence[Tensor], rows: Sequence[Tensor]) -> list[Piece]:
    return [Rows(p, block) for p, block in zip(parameters, rows, strict=True)]
