"""The linearization of autogram: the Gramian layer by layer, and the update from kept factors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jdframework.autograd.graph import without
from jdframework.errors import UnsupportedModelError
from jdframework.linalg.single import misfits, unshifted
from jdframework.linearization import (
    Forecast,
    Gradients,
    Linearization,
    RowFunction,
    split,
    summed,
)

from jd_plugin_autogram.dependencies import Dependencies
from jd_plugin_autogram.factors import Factors, Rows, combined
from jd_plugin_autogram.factors.base import multiplied
from jd_plugin_autogram.forecast import forecast_of
from jd_plugin_autogram.joining import Reached, factors_of
from jd_plugin_autogram.objectives import Objectives, differentiated
from jd_plugin_autogram.plan import Plan, make_plan, sketch_plan

if TYPE_CHECKING:
    from jd_plugin_autogram.engine import Autogram

_SHIFT: Final = 96
"""Brings any norm in single precision, but those that have no need, to where its square is."""


class AutogramLinearization(Linearization):
    """The Jacobian, factorised into each layer's inputs and the gradients of its outputs.

    :param engine: What knows the layers.
    :param objectives: What is differentiated.
    :param dependencies: What they depend on.
    :param groups: Positions of parameters that have a Gramian of their own; one of all when None.
    :param outside: Whether other leaves get their share of the update.
    :param retain_graph: Whether the graph can be used again.
    """

    def __init__(
        self,
        engine: Autogram,
        objectives: Objectives,
        dependencies: Dependencies,
        groups: Sequence[Sequence[int]] | None,
        outside: bool,
        retain_graph: bool,
    ) -> None:
        self._engine, self.objectives, self.dependencies = engine, objectives, dependencies
        self._parameters = engine.parameters
        self.inputs: Sequence[Tensor] = self._parameters
        self.groups = [range(len(self.inputs))] if groups is None else groups
        self.outside = without(dependencies.leaves, self.inputs) if outside else []
        self._owners = {id(self.inputs[i]): g for g, own in enumerate(self.groups) for i in own}
        self._retain = retain_graph
        self._factors: list[Factors] | None = None
        self._shifts: dict[int, Int[Tensor, " m"]] = {}

    @torch.no_grad()
    def gramians(self) -> list[Float[Tensor, "m m"] | None]:
        """See :meth:`jdframework.linearization.Linearization.gramians`.

        :raises UnsupportedModelError: if they fail an identity that they are checked by.
        """
        cache, plan = self._engine.cache, self.plan
        kind = self.dependencies.kind, plan.axis_key
        # Every time, where what is seen of one batch's instances is not true of the next's.
        unverified = self._engine.config.verify_first and (
            plan.axis_key is None or not cache.is_trusted(kind)
        )
        totals = self._within_range(plan, self._totals(plan, self._retain or unverified))
        permuted = self.objectives.permuted
        found = [
            None if (own := totals.get(group)) is None else permuted(own)
            for group in range(len(self.groups))
        ]
        total = summed(found)
        if unverified and total is not None and self._engine.verify_gramian(self, total):
            cache.verified(kind)
        return found

    @torch.no_grad()
    def vjp(self, weights: Sequence[Float[Tensor, " m"] | None]) -> Gradients:
        """``Jᵀw``: without a pass, where the factors are kept."""
        own = {
            group: self.objectives.in_order(each)
            for group, each in enumerate(weights)
            if each is not None
        }
        targets: list[Tensor] = []
        found: list[Tensor | None] = []
        of_factors = {group: self._unshifted(group, each) for group, each in own.items()}
        for factor in self._factors or ():
            targets.append(factor.parameter)
            found.append(factor.gradient(of_factors[self._owners[id(factor.parameter)]]))
        for left, (group, each) in zip(reversed(range(len(own))), own.items(), strict=True):
            rest = [] if self._factors is not None else [self.inputs[i] for i in self.groups[group]]
            rest += self.outside
            start = self.objectives.weighted(each)
            found += differentiated(start, rest, self._retain or left > 0)
            targets += rest
        if not self._retain:
            self._engine.recorder.forget(self.dependencies.nodes)
        return targets, found

    @torch.no_grad()
    def blocks(self) -> Iterator[tuple[int, Float[Tensor, "m *shape"]]]:
        """See :meth:`jdframework.linearization.Linearization.blocks`; after ``gramians``.

        :raises UnsupportedModelError: if the layers' factors were too large to keep.
        """
        if self._factors is None:
            raise UnsupportedModelError(
                "autogram has kept no rows, as they would not fit: use engine='chunked'"
            )
        of: dict[int, list[Factors]] = {}
        for factor in self._factors:
            of.setdefault(id(factor.parameter), []).append(factor)
        for position, parameter in enumerate(self.inputs):
            own = [factor.rows() for factor in of.get(id(parameter), ())]
            if own:
                rows = sum(own[1:], start=own[0])
                shifts = self._shifts.get(self._owners[id(parameter)])
                rows = rows if shifts is None else multiplied(rows, torch.exp2(-shifts.float()))
                yield position, self.objectives.permuted_rows(rows).to(parameter.dtype)

    def direct(self, function: RowFunction, group: int, *, column_wise: bool) -> Gradients:
        """See :meth:`jdframework.linearization.Linearization.direct`; one parameter at a time."""
        if not column_wise:
            return super().direct(function, group, column_wise=False)
        own = set(self.groups[group])
        inputs: list[Tensor] = []
        found: list[Tensor | None] = []
        for position, rows in self.blocks():
            if position in own:
                parameter = self.inputs[position]
                found += split(function(rows.reshape(len(rows), -1)), [parameter])
                inputs.append(parameter)
        return inputs, found

    def forecast(self) -> Forecast:
        """See :meth:`jdframework.linearization.Linearization.forecast`."""
        plan = sketch_plan(self.objectives, self.dependencies, self._parameters, self._engine.cache)
        return forecast_of(self.objectives, plan, self._size)

    def close(self) -> None:
        """Lets go of the factors."""
        self._factors = None

    @cached_property
    def plan(self) -> Plan:
        """Which parameters go layer by layer; on a new kind of graph this takes a pass or two."""
        return make_plan(self.objectives, self.dependencies, self._parameters, self._engine.cache)

    @property
    def _size(self) -> int:
        return self._engine.memory_for(self.dependencies, self.objectives.outputs[0].device)

    def _totals(self, plan: Plan, retain_graph: bool) -> dict[int, Float[Tensor, "m m"]]:
        """The Gramian of each group that the losses depend on; keeps what gives the update."""
        objectives = self.objectives
        groups = plan.groups(objectives.k, self._size)
        fused = len(groups) == 1
        again = any(contribution.needs_graph for contribution in plan.contributions)
        last = not (retain_graph or self.outside or again) and fused
        totals: dict[int, Tensor] = {}
        kept: list[Factors] = []
        together = objectives.n == 1
        if plan.fallback and not together:
            rows = objectives.of_parameters(plan.fallback, not last or bool(plan.contributions))
            kept = _as_rows(plan.fallback, rows)
            self._add(totals, kept)
        for number, group in enumerate(groups):
            fallback = plan.fallback if together and number == 0 else []
            factors = self._factors_of(plan, group, fallback, retain_graph=not last)
            self._add(totals, factors)
            kept += factors if fused else []
        self._factors = kept if fused else None
        return totals

    def _within_range(
        self, plan: Plan, totals: dict[int, Float[Tensor, "m m"]]
    ) -> dict[int, Float[Tensor, "m m"]]:
        """The Gramians; in float64 where the squares of rows leave the range of float32.

        These rows are then multiplied by powers of two. What was kept of them is used once more;
        what was too large to be kept takes its passes again.

        :param totals: In the order ``i·k + a``, as :meth:`_totals` gives them.
        :raises UnsupportedModelError: if the layers' inputs or gradients go still further apart.
        """
        found = {number: self._shifts_of(number, g.diagonal()) for number, g in totals.items()}
        self._shifts = {number: own for number, own in found.items() if own is not None}
        if not self._shifts:
            return totals
        if self._factors is None:
            shifted = self._totals(plan, retain_graph=True)
        else:
            shifted = {}
            owners = self._owners
            self._add(
                shifted, [p for p in self._factors if owners[id(p.parameter)] in self._shifts]
            )
        for number, own in self._shifts.items():
            lost = ~shifted[number].diagonal().isfinite() & (own > 0)
            if bool(lost.any()):
                raise UnsupportedModelError(
                    "gradients are so short that single precision cannot compare them layer by "
                    "layer: use engine='autojac', or multiply the losses by some power of two"
                )
            totals = totals | {number: unshifted(shifted[number], own, own)}
        return totals

    def _shifts_of(self, group: int, squares: Float[Tensor, " m"]) -> Int[Tensor, " m"] | None:
        """By which powers of two rows are to be multiplied; None if all are in range, or zero."""
        suspects = misfits(squares)
        if suspects is None:
            return None
        zero = squares == 0
        rows = torch.nonzero(zero).flatten()
        if not bool((suspects & ~zero).any()) and not self._reach(group, rows):
            return None
        return torch.where(suspects, torch.where(squares < 1, _SHIFT, -_SHIFT), 0)

    def _reach(self, group: int, rows: Int[Tensor, " r"]) -> bool:
        """Whether some of these rows, whose squares are zero, may be other than zero."""
        if self._factors is not None:
            own = [p for p in self._factors if self._owners[id(p.parameter)] == group]
            return any(bool(factor.reaches(rows.to(factor.parameter.device))) for factor in own)
        weights = torch.zeros(self.objectives.m, device=rows.device)
        weights[rows] = torch.linspace(1.0, 2.0, len(rows), device=rows.device)
        inputs = [self.inputs[i] for i in self.groups[group]]
        found = differentiated(self.objectives.weighted(weights), inputs, True)
        return any(bool(each.any()) for each in found if each is not None)

    def _unshifted(self, group: int, weights: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Weights of the rows as they are kept."""
        shifts = self._shifts.get(group)
        return weights if shifts is None else torch.ldexp(weights.double(), -shifts)

    def _add(self, totals: dict[int, Tensor], factors: Sequence[Factors]) -> None:
        for factor in factors:
            number = self._owners[id(factor.parameter)]
            if number in self._shifts:
                factor.scale(torch.exp2(self._shifts[number].float()))
            found, total = factor.gramian(), totals.get(number)
            totals[number] = found if total is None else total + found.to(total.device)

    def _factors_of(
        self,
        plan: Plan,
        group: Sequence[int],
        fallback: Sequence[nn.Parameter],
        *,
        retain_graph: bool,
    ) -> list[Factors]:
        """The factors of every parameter that a group of contributions uses, and of the fallback.

        :param plan: What is done layer by layer.
        :param group: The contributions' numbers.
        :param fallback: Parameters whose rows are found on the same passes.
        :param retain_graph: Whether the graph is needed for something else.
        """
        objectives = self.objectives
        contributions = [plan.contributions[i] for i in group]
        edges = [edge for contribution in contributions for edge in contribution.edges]
        found, rows = objectives.of_outputs(edges, retain_graph, fallback)
        left = iter(found)
        reached = [
            Reached(contribution, [next(left) for _ in contribution.edges], plan.layouts[number])
            for number, contribution in zip(group, contributions, strict=True)
        ]
        reached = [each for each in reached if any(g is not None for g in each.gradients)]
        by_parameter: dict[int, list[Factors]] = {}
        for factor in factors_of(reached):
            by_parameter.setdefault(id(factor.parameter), []).append(factor)
        factors = [factor for several in by_parameter.values() for factor in combined(several)]
        return [*factors, *_as_rows(fallback, rows)]


def _as_rows(parameters: Sequence[Tensor], rows: Sequence[Tensor]) -> list[Factors]:
    return [Rows(p, block) for p, block in zip(parameters, rows, strict=True)]
