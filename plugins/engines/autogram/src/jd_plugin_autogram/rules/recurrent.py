"""``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from jd_plugin_autogram.factors import Factors
from jd_plugin_autogram.layout import Layout
from jd_plugin_autogram.recording import Call
from jd_plugin_autogram.rules.base import Rule, Use
from jd_plugin_autogram.rules.gates import (
    Gate,
    State,
    factors_of_gates,
    gates_of,
    given_state,
    next_state,
)


class Recurrent(Rule):
    """``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``, of any number of layers and both directions."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.RNN, nn.LSTM, nn.GRU)

    def factors(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Factors]:
        """One product per matrix."""
        layer = use.layer
        values = {name: p.detach() for name, p in layer.named_parameters()}
        with torch.enable_grad():
            outputs, taps = _run(layer, values, *_arguments(use))
        return factors_of_gates(use, wanted, outputs, taps, _batch_layout(use))

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


def _arguments(use: Use) -> tuple[Tensor, State]:
    """``[time, batch, features]`` and the initial states ``[layers, batch, features]``."""
    layer, given = use.layer, use.input
    sequence = given.transpose(0, 1) if layer.batch_first else given
    state = given_state(use)
    if state:
        return sequence, state
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    zeros = sequence.new_zeros(count, sequence.shape[1], layer.proj_size or layer.hidden_size)
    cells = sequence.new_zeros(count, sequence.shape[1], layer.hidden_size)
    return sequence, (zeros, cells) if isinstance(layer, nn.LSTM) else (zeros,)


def _batch_layout(use: Use) -> Layout:
    """Where the instances lie in tensors ``[time, batch, features]``."""
    found = next(layout for layout in use.layouts if layout is not None)
    return Layout(found.n, 1, found.minor)


def _run(
    layer: Any, values: dict[str, Tensor], sequence: Tensor, initial: State
) -> tuple[list[Tensor], list[Gate]]:
    """The outputs as the layer gives them, and every linear map on the way."""
    directions = 2 if layer.bidirectional else 1
    taps: list[Gate] = []
    finals: list[State] = []
    for depth in range(layer.num_layers):
        found = []
        for direction in range(directions):
            suffix = f"_l{depth}" + ("_reverse" if direction else "")
            own = gates_of(suffix, bool(getattr(layer, "proj_size", 0)))
            state = tuple(s[depth * directions + direction] for s in initial)
            steps = sequence.flip(0) if direction else sequence
            output, final = _sweep(layer, values, own, steps, state)
            found.append(output.flip(0) if direction else output)
            finals.append(final)
            taps += own
        sequence = torch.cat(found, dim=-1)
    outputs = sequence.transpose(0, 1) if layer.batch_first else sequence
    return [outputs, *(torch.stack(states) for states in zip(*finals, strict=True))], taps


def _sweep(
    layer: Any, values: dict[str, Tensor], taps: list[Gate], sequence: Tensor, state: State
) -> tuple[Tensor, State]:
    gates = taps[0](values, sequence)
    outputs = []
    for gate in gates.unbind():
        state = next_state(layer, values, taps, gate, state)
        outputs.append(state[0])
    return torch.stack(outputs), state
