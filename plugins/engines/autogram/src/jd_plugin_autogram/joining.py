"""Many calls of one layer as one call on a longer batch, as a recurrence written by hand has them.

A rule takes about as long for one call as for hundreds side by side.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from jd_plugin_autogram.contributions import CallContribution, Contribution
from jd_plugin_autogram.factors import Factors
from jd_plugin_autogram.layout import Layout
from jd_plugin_autogram.recording import Call
from jd_plugin_autogram.rules import Use, rule_for


@dataclass
class Reached:
    """A contribution, the gradients of its outputs, and where the instances lie in them."""

    contribution: Contribution
    gradients: list[Tensor | None]
    layouts: Sequence[Layout]


def factors_of(reached: Sequence[Reached]) -> list[Factors]:
    """What contributions give; calls that are alike are taken for one.

    :param reached: Those that losses depend on.
    """
    alike: dict[Hashable, list[Reached]] = {}
    for number, each in enumerate(reached):
        key = _key(each)
        alike.setdefault(number if key is None else key, []).append(each)
    return [factor for several in alike.values() for factor in _of_alike(several)]


def _of_alike(several: Sequence[Reached]) -> list[Factors]:
    first = several[0]
    if len(several) == 1:
        return first.contribution.factors(first.gradients, first.layouts)
    uses = [_use(each) for each in several]
    return rule_for(uses[0].layer).factors(_joined(uses), first.contribution.wanted)


def _key(reached: Reached) -> Hashable | None:
    """What calls have in common that go together; None if this one goes with no other."""
    contribution = reached.contribution
    if type(contribution) is not CallContribution:
        return None
    call = contribution.call
    if not rule_for(call.layer).joins(call):
        return None
    length = call.tensors[0].shape[:1]
    made = [gradient for gradient in reached.gradients if gradient is not None]
    along_first = all(layout.n == 1 or layout.dim == 0 for layout in reached.layouts)
    lengths = [gradient.shape[1:2] for gradient in made] + [t.shape[:1] for t in call.tensors]
    if not along_first or not length or any(each != length for each in lengths):
        return None
    return (
        id(call.layer),
        call.training,
        call.nested,
        call.outputs,
        tuple(id(p) for p in contribution.wanted),
        _kind_of_arguments(call),
        tuple(None if g is None else (g.shape, g.dtype, g.device) for g in reached.gradients),
        tuple(reached.layouts),
        contribution.positions,
    )


def _kind_of_arguments(call: Call) -> Hashable:
    """How they are nested, which are tensors of what shape, and what the others are."""
    tensors = tuple((t.shape, t.dtype, t.device) for t in call.tensors)
    if not call.kwargs and len(call.args) == len(call.tensors):
        return tensors
    leaves, structure = pytree.tree_flatten((call.args, call.kwargs))
    others = tuple(None if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves)
    return tensors, str(structure), others


def _use(reached: Reached) -> Use:
    assert isinstance(reached.contribution, CallContribution)
    return reached.contribution.use(reached.gradients, reached.layouts)


def _joined(uses: Sequence[Use]) -> Use:
    """One for all, of which each instance has its positions of every call."""
    first = uses[0]
    layout = next(each for each in first.layouts if each is not None)
    inputs, kwargs = _joined_arguments(uses, layout)
    gradients = zip(*(use.gradients for use in uses), strict=True)
    return replace(
        first,
        inputs=inputs,
        kwargs=kwargs,
        gradients=tuple(_column(each, layout, 1) for each in gradients),
        layouts=tuple(None if each is None else Layout(each.n) for each in first.layouts),
    )


def _joined_arguments(
    uses: Sequence[Use], layout: Layout
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not uses[0].kwargs and all(isinstance(given, Tensor) for given in uses[0].inputs):
        columns = zip(*(use.inputs for use in uses), strict=True)
        return tuple(_column(each, layout) for each in columns), {}
    flat = [pytree.tree_flatten((use.inputs, use.kwargs)) for use in uses]
    joined = [_column(each, layout) for each in zip(*(leaves for leaves, _ in flat), strict=True)]
    found: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_unflatten(joined, flat[0][1])
    return found


def _column(parts: Sequence[Any], layout: Layout, leading: int = 0) -> Any:
    """``[…, n·T, *features]``: each instance's share of every call, one after the other."""
    if not isinstance(parts[0], Tensor):
        return parts[0]
    if layout.n == 1:
        return torch.cat(list(parts), dim=leading)
    stacked = torch.stack(list(parts), dim=leading)
    # [calls, n·T, …] or [calls, T·n, …], where the instance is the faster index.
    calls, size, *features = stacked.shape[leading:]
    sizes = (size // layout.n, layout.n) if layout.minor else (layout.n, size // layout.n)
    by_instance = stacked.unflatten(leading + 1, sizes).movedim(
        leading + (2 if layout.minor else 1), leading
    )
    return by_instance.reshape(*stacked.shape[:leading], calls * size, *features)
