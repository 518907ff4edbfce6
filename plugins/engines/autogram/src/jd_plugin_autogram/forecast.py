"""Forecasts how many passes a step takes, and how much it holds."""

from __future__ import annotations

from jdframework.linearization import Forecast

from jd_plugin_autogram.objectives import Objectives
from jd_plugin_autogram.plan import Plan


def forecast_of(objectives: Objectives, plan: Plan, size: int) -> Forecast:
    """The passes that a step takes, and what it holds between them.

    :param objectives: What is differentiated.
    :param plan: What is done layer by layer; its layouts do not matter.
    :param size: How many bytes may be kept from the Gramian for the update.
    """
    groups = len(plan.groups(objectives.k, size))
    outputs = objectives.k * sum(contribution.size for contribution in plan.contributions)
    rows = objectives.m * sum(p.numel() * p.dtype.itemsize for p in plan.fallback)
    held = rows + (outputs if groups == 1 else size)
    unit = "instance-wise" if objectives.n > 1 else "task-wise"
    if groups == 1:
        return Forecast(f"{unit}, fused: {_passes(objectives, plan)}", held, _dearer(plan))
    return Forecast(
        f"{unit}, two passes: {_passes(objectives, plan)}, {groups} times, for a part of the "
        f"layers each time, and one more for the update",
        held,
    )


def _dearer(plan: Plan) -> str:
    """Why rows of the Jacobian take less time; empty if they do not."""
    if plan.contributions or not plan.fallback:
        return ""
    return "no layer's Gramian is cheaper here than the rows of its parameters"


def _passes(objectives: Objectives, plan: Plan) -> str:
    if objectives.n == 1 or not plan.contributions:
        return f"a backward pass for each of {objectives.m} objectives"
    passes = "one backward pass" if objectives.k == 1 else f"{objectives.k} backward passes"
    found = f"{passes} for all {objectives.m} objectives"
    if plan.fallback:
        found += f", and one for each because of {len(plan.fallback)} parameters"
    if plan.slow:
        found += f"; without a rule, and so an instance at a time: {', '.join(plan.slow)}"
    return found
