"""The gates of recurrent layers: linear maps over time, each a product once its gradient is known.

A layer is run once more, step by step, and what is differentiated is its gates before their
activation: with those gradients, every matrix is a linear layer over a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from jd_plugin_autogram.factors import Factors, Product, Rows, accumulated_in, by_objective
from jd_plugin_autogram.layout import Layout
from jd_plugin_autogram.rules.base import Use

State = tuple[Tensor, ...]


@dataclass
class Gate:
    """The output of one linear map at every step, and what went into it."""

    weight: str
    bias: str | None
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def __call__(self, values: dict[str, Tensor], given: Tensor) -> Tensor:
        """Applies the map, and keeps its input and output."""
        bias = values.get(self.bias) if self.bias else None
        output = nn.functional.linear(given, values[self.weight], bias)
        output.requires_grad_(True) if output.is_leaf else None
        self.inputs.append(given.detach())
        self.outputs.append(output)
        return output


def given_state(use: Use) -> State:
    """The initial state that the call was given; empty if it was given none."""
    state = use.inputs[1] if len(use.inputs) > 1 else use.kwargs.get("hx")
    if state is None:
        return ()
    return (state,) if isinstance(state, Tensor) else tuple(state)


def gates_of(suffix: str, projected: bool) -> list[Gate]:
    """The linear maps of one direction of one layer, not yet applied.

    :param suffix: How the names of its parameters end.
    :param projected: Whether the hidden state is projected.
    """
    kinds = ["ih", "hh"]
    taps = [Gate(f"weight_{kind}{suffix}", f"bias_{kind}{suffix}") for kind in kinds]
    return [*taps, Gate(f"weight_hr{suffix}", None)] if projected else taps


def next_state(
    layer: Any,
    values: dict[str, Tensor],
    taps: list[Gate],
    gate: Tensor,
    state: State,
    *,
    cut: bool = False,
) -> State:
    """The next state.

    :param cut: Whether the hidden state is not to lead back to the cell's.
    """
    recurrent = taps[1](values, state[0])
    if isinstance(layer, nn.LSTM | nn.LSTMCell):
        i, f, g, o = (gate + recurrent).chunk(4, dim=-1)
        cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * (cell.detach() if cut else cell).tanh()
        return (taps[2](values, hidden) if len(taps) > 2 else hidden), cell
    if isinstance(layer, nn.GRU | nn.GRUCell):
        (r, z, g), (rh, zh, gh) = gate.chunk(3, dim=-1), recurrent.chunk(3, dim=-1)
        update = (z + zh).sigmoid()
        fresh = (g + (r + rh).sigmoid() * gh).tanh()
        return (fresh + update * (state[0] - fresh),)
    activation: Callable[[Tensor], Tensor]
    activation = torch.tanh if layer.nonlinearity == "tanh" else torch.relu
    return (activation(gate + recurrent),)


def factors_of_gates(
    use: Use,
    wanted: Sequence[nn.Parameter],
    outputs: Sequence[Tensor],
    taps: list[Gate],
    layout: Layout,
) -> list[Factors]:
    """The gradients of every linear map's output, and the factors that follow from them."""
    reached = [(o, g) for o, g in zip(outputs, use.gradients, strict=True) if g is not None]
    ends = [end for tap in taps for end in tap.outputs]
    columns = [
        torch.autograd.grad(
            [o for o, _ in reached],
            ends,
            [g[a] for _, g in reached],
            retain_graph=True,
            materialize_grads=True,
        )
        for a in range(len(reached[0][1]))
    ]
    found = iter([torch.stack(column) for column in zip(*columns, strict=True)])
    names = {name: p for name, p in use.layer.named_parameters() if any(p is w for w in wanted)}
    factors: list[Factors] = []
    for tap in taps:
        gradients = [next(found) for _ in tap.outputs]
        a = _joined([layout_of(t, layout).split(t) for t in tap.inputs])
        b = _joined([layout_of(t[0], layout).split(t, 1) for t in gradients], 1)
        if tap.weight in names:
            factors.append(Product(names[tap.weight], a, b))
        if tap.bias in names:
            factors.append(Rows(names[tap.bias], by_objective(b.sum(2, dtype=accumulated_in(b)))))
    return factors


def layout_of(tensor: Tensor, layout: Layout) -> Layout:
    """That of one step, which has no dimension of time."""
    return Layout(layout.n, tensor.ndim - 2, layout.minor)


def _joined(parts: list[Tensor], leading: int = 0) -> Tensor:
    """All steps' positions, one after the other: ``[…, n, T, features]``."""
    flat = [part.reshape(*part.shape[: leading + 1], -1, part.shape[-1]) for part in parts]
    return torch.cat(flat, dim=leading + 1)
