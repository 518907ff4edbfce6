"""Forecasts how many passes a step takes, and how much it holds."""

from __future__ import annotations

from typing import Final

from jdframework.linearization import Forecast

from jd_plugin_autogram.objectives import Objectives
from jd_plugin_autogram.plan import Plan

_MANY: Final = 50
"""From how many calls of a layer on a loop is taken for one."""
_FEW: Final = 16
"""Up to how many objectives a loop's rows take less time than its calls, each by itself."""
_SMALL: Final = 2**14
"""The largest parameter of a layer whose products take no time beside what goes with them, and how
many bytes its output has at most."""


def forecast_of(objectives: Objectives, plan: Plan, size: int) -> Forecast:
    """The passes that a step takes, and what it holds between them.

    :param objectives: What is differentiated.
    :param plan: What is done layer by layer; its layouts do not matter.
    :param size: How many bytes may be kept from the Gramian for the update.
    """
    groups = len(plan.groups(objectives.k, size))
    outputs = objectives.k * sum(contribution.size for contribution in plan.contributions)
    rows = objectives.m * sum(p.numel() * p.dtype.itemsize for p in (*plan.fallback, *plan.cut_off))
    held = rows + (outputs if groups == 1 else size)
    unit = "instance-wise" if objectives.n > 1 else "task-wise"
    if groups == 1:
        return Forecast(
            f"{unit}, fused: {_passes(objectives, plan)}", held, _dearer(objectives, plan)
        )
    return Forecast(
        f"{unit}, two passes: {_passes(objectives, plan)}, {groups} times, for a part of the "
        f"layers each time, and one more for the update",
        held,
    )


def _dearer(objectives: Objectives, plan: Plan) -> str:
    """Why rows of the Jacobian take less time; empty if they do not."""
    if not plan.contributions:
        if plan.cut_off or not plan.fallback:
            return ""
        return "no layer's Gramian is cheaper here than the rows of its parameters"
    wanted = [p for contribution in plan.contributions for p in contribution.wanted]
    distinct = {id(p): p.numel() for p in wanted}
    calls = len(wanted) // len(distinct)
    largest = max(*distinct.values(), *(contribution.size for contribution in plan.contributions))
    if objectives.m <= _FEW and calls >= _MANY and largest <= _SMALL:
        return (
            f"small layers are called {calls} times each, and a call by itself takes longer than "
            f"its part in the rows of {objectives.m} objectives"
        )
    return ""


def _passes(objectives: Objectives, plan: Plan) -> str:
    if objectives.n == 1 or not (plan.contributions or plan.cut_off):
        return f"a backward pass for each of {objectives.m} objectives"
    passes = "one backward pass" if objectives.k == 1 else f"{objectives.k} backward passes"
    found = f"{passes} for all {objectives.m} objectives"
    if plan.fallback:
        found += f", and one for each because of {len(plan.fallback)} parameters"
    if plan.slow:
        found += f"; without a rule, and so an instance at a time: {', '.join(plan.slow)}"
    return found
