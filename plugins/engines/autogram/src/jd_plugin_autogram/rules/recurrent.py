"""Recurrent layers and cells: their gates are linear layers over time.

The layer is run once more, step by step, and what is differentiated is its gates before their
activation: with those gradients, every matrix is a linear layer over a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from jd_plugin_autogram.layout import Layout
from jd_plugin_autogram.pieces import Piece, Product, Rows, by_objective
from jd_plugin_autogram.recording import Call
from jd_plugin_autogram.rules.base import Rule, Use

_State = tuple[Tensor, ...]


@dataclass
class _Tap:
    """The output of one linear map at every step, and what went into it."""

    weight: str
    bias: str | None
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def __call__(self, values: dict[str, Tensor], given: Tensor) -> Tensor:
        bias = values.get(self.bias) if self.bias else None
        output = nn.functional.linear(given, values[self.weight], bias)
        output.requires_grad_(True) if output.is_leaf else None
        self.inputs.append(given.detach())
        self.outputs.append(output)
        return output


class Recurrent(Rule):
    """``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``, of any number of layers and both directions."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.RNN, nn.LSTM, nn.GRU)

    def pieces(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Piece]:
        """One product per matrix."""
        layer = use.layer
        values = {name: p.detach() for name, p in layer.named_parameters()}
        with torch.enable_grad():
            outputs, taps = _run(layer, values, *_arguments(use))
        return _tapped(use, wanted, outputs, taps, _batch_layout(use))

    def instance_dims(self, layer: Any, shape: Sequence[int]) -> Iterable[int]:
        """Where the batch is; the same for outputs of both shapes, which differ in ``[0]``."""
        return range(len(shape) - 1)

    def serves(self, call: Call) -> bool:
        """Not packed or single sequences, nor dropout between layers."""
        layer: Any = call.layer
        given = call.args[0] if call.args else call.kwargs["input"]
        plain = isinstance(given, Tensor) and given.ndim == 3
        draws = layer.training and layer.dropout > 0 and layer.num_layers > 1
        usual = set(dict(layer.named_parameters())) == set(layer._flat_weights_names)
        return plain and usual and not draws and not call.state_changed


class Cell(Recurrent):
    """``nn.RNNCell``, ``nn.LSTMCell`` and ``nn.GRUCell``: one step.

    An LSTM cell computes its first output from its second, whose gradient therefore is whole.
    """

    cuts: ClassVar[bool] = True
    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
    parameters: ClassVar[frozenset[str]] = frozenset(
        {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}
    )

    def pieces(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Piece]:
        """One product per matrix."""
        layer = use.layer
        values = {name: p.detach() for name, p in layer.named_parameters()}
        given, state = use.input, _given_state(use)
        if not state:
            zeros = given.new_zeros(len(given), layer.hidden_size)
            state = (zeros, zeros) if isinstance(layer, nn.LSTMCell) else (zeros,)
        taps = _taps("", False)
        cut = use.nested and len(use.gradients) > 1 and use.gradients[1] is not None
        with torch.enable_grad():
            outputs = _step(layer, values, taps, taps[0](values, given), state, cut=cut)
        layout = next(x for x in use.layouts if x is not None)
        return _tapped(use, wanted, outputs, taps, layout)

    def serves(self, call: Call) -> bool:
        """Not one vector alone."""
        given = call.args[0] if call.args else call.kwargs["input"]
        return given.ndim == 2 and not call.state_changed


def _arguments(use: Use) -> tuple[Tensor, _State]:
    """``[time, batch, features]`` and the initial states ``[layers, batch, features]``."""
    layer, given = use.layer, use.input
    sequence = given.transpose(0, 1) if layer.batch_first else given
    state = _given_state(use)
    if state:
        return sequence, state
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    zeros = sequence.new_zeros(count, sequence.shape[1], layer.proj_size or layer.hidden_size)
    cells = sequence.new_zeros(count, sequence.shape[1], layer.hidden_size)
    return sequence, (zeros, cells) if isinstance(layer, nn.LSTM) else (zeros,)


def _given_state(use: Use) -> _State:
    state = use.inputs[1] if len(use.inputs) > 1 else use.kwargs.get("hx")
    if state is None:
        return ()
    return (state,) if isinstance(state, Tensor) else tuple(state)


def _batch_layout(use: Use) -> Layout:
    """Where the instances lie in tensors ``[time, batch, features]``."""
    found = next(layout for layout in use.layouts if layout is not None)
    return Layout(found.n, 1, found.minor)


def _run(
    layer: Any, values: dict[str, Tensor], sequence: Tensor, initial: _State
) -> tuple[list[Tensor], list[_Tap]]:
    """The outputs as the layer gives them, and every linear map on the way."""
    directions = 2 if layer.bidirectional else 1
    taps: list[_Tap] = []
    finals: list[_State] = []
    for depth in range(layer.num_layers):
        found = []
        for direction in range(directions):
            suffix = f"_l{depth}" + ("_reverse" if direction else "")
            own = _taps(suffix, bool(getattr(layer, "proj_size", 0)))
            state = tuple(s[depth * directions + direction] for s in initial)
            steps = sequence.flip(0) if direction else sequence
            output, final = _sweep(layer, values, own, steps, state)
            found.append(output.flip(0) if direction else output)
            finals.append(final)
            taps += own
        sequence = torch.cat(found, dim=-1)
    outputs = sequence.transpose(0, 1) if layer.batch_first else sequence
    return [outputs, *(torch.stack(states) for states in zip(*finals, strict=True))], taps


def _taps(suffix: str, projected: bool) -> list[_Tap]:
    kinds = ["ih", "hh"]
    taps = [_Tap(f"weight_{kind}{suffix}", f"bias_{kind}{suffix}") for kind in kinds]
    return [*taps, _Tap(f"weight_hr{suffix}", None)] if projected else taps


def _sweep(
    layer: Any, values: dict[str, Tensor], taps: list[_Tap], sequence: Tensor, state: _State
) -> tuple[Tensor, _State]:
    gates = taps[0](values, sequence)
    outputs = []
    for gate in gates.unbind():
        state = _step(layer, values, taps, gate, state)
        outputs.append(state[0])
    return torch.stack(outputs), state


def _step(
    layer: Any,
    values: dict[str, Tensor],
    taps: list[_Tap],
    gate: Tensor,
    state: _State,
    *,
    cut: bool = False,
) -> _State:
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


def _tapped(
    use: Use,
    wanted: Sequence[nn.Parameter],
    outputs: Sequence[Tensor],
    taps: list[_Tap],
    layout: Layout,
) -> list[Piece]:
    """The gradients of every linear map's output, and the pieces that follow from them."""
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
    pieces: list[Piece] = []
    for tap in taps:
        gradients = [next(found) for _ in tap.outputs]
        a = _joined([layout_of(t, layout).split(t) for t in tap.inputs])
        b = _joined([layout_of(t[0], layout).split(t, 1) for t in gradients], 1)
        if tap.weight in names:
            pieces.append(Product(names[tap.weight], a, b))
        if tap.bias in names:
            pieces.append(Rows(names[tap.bias], by_objective(b.sum(2))))
    return pieces


def layout_of(tensor: Tensor, layout: Layout) -> Layout:
    """That of one step, which has no dimension of time."""
    return Layout(layout.n, tensor.ndim - 2, layout.minor)


def _joined(parts: list[Tensor], leading: int = 0) -> Tensor:
    """All steps' positions, one after the other: ``[…, n, T, features]``."""
    flat = [part.reshape(*part.shape[: leading + 1], -1, part.shape[-1]) for part in parts]
    return torch.cat(flat, dim=leading + 1)
