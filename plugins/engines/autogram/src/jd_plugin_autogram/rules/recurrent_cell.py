"""``nn.RNNCell``, ``nn.LSTMCell`` and ``nn.GRUCell``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from jd_plugin_autogram.factors import Factors
from jd_plugin_autogram.recording import Call
from jd_plugin_autogram.rules.base import Use
from jd_plugin_autogram.rules.gates import (
    factors_of_gates,
    gates_of,
    given_state,
    next_state,
)
from jd_plugin_autogram.rules.recurrent import Recurrent


class Cell(Recurrent):
    """``nn.RNNCell``, ``nn.LSTMCell`` and ``nn.GRUCell``: one step.

    An LSTM cell computes its first output from its second, whose gradient therefore is whole.
    """

    cuts: ClassVar[bool] = True
    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
    parameters: ClassVar[frozenset[str]] = frozenset(
        {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}
    )

    def factors(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Factors]:
        """One product per matrix."""
        layer = use.layer
        values = {name: p.detach() for name, p in layer.named_parameters()}
        given, state = use.input, given_state(use)
        if not state:
            zeros = given.new_zeros(len(given), layer.hidden_size)
            state = (zeros, zeros) if isinstance(layer, nn.LSTMCell) else (zeros,)
        taps = gates_of("", False)
        cut = use.nested and len(use.gradients) > 1 and use.gradients[1] is not None
        with torch.enable_grad():
            outputs = next_state(layer, values, taps, taps[0](values, given), state, cut=cut)
        layout = next(x for x in use.layouts if x is not None)
        return factors_of_gates(use, wanted, outputs, taps, layout)

    def joins(self, call: Call) -> bool:
        """A cell knows nothing of its other calls."""
        return True

    def serves(self, call: Call) -> bool:
        """Not one vector alone."""
        given = call.args[0] if call.args else call.kwargs["input"]
        return given.ndim == 2 and not call.state_changed
