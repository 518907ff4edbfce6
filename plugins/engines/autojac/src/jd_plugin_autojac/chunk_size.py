"""How many rows to differentiate at once when the user leaves it to the engine.

The rule looks only at the graph, never at a clock, so that two runs compute the same digits. Its
figures come from ``benchmarks/autojac_modes.py``; ``benchmarks/NOTES.md`` tells what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import Tensor

_SLOW_ON_CPU: Final = (
    "Convolution",
    "Rnn",
    "ScaledDotProduct",
    "Embedding",
    "Pool",
)
"""Operations whose batching rule loops, or reshapes into slow kernels, on a CPU."""
_OVERHEAD_BOUND: Final = 500_000
"""Up to so many parameters a pass on a CPU is mostly overhead, which batching shares."""
_CPU_CHUNK: Final = 32
_GPU_CHUNK: Final = 256


def chunk_size(m: int, inputs: Sequence[Tensor], operations: frozenset[str]) -> int:
    """The number of rows a pass; 1 means one by one, without vmap.

    :param m: The number of rows.
    :param inputs: What the rows are taken with respect to.
    :param operations: The names of the graph's operations.
    """
    if inputs[0].device.type != "cpu":
        return min(m, _GPU_CHUNK)
    names = " ".join(operations)
    slow = any(part in names for part in _SLOW_ON_CPU)
    size = sum(tensor.numel() for tensor in inputs)
    if m <= 2 or slow or size > _OVERHEAD_BOUND:
        return 1
    return min(m, _CPU_CHUNK)
