"""How a step grows: time and peak memory against objectives, width and sequence length.

One objective per instance, the method is the mean. The exponent is that of the straight line
through the logarithms of the larger half of the sizes: 1 is linear.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from contestants import ENGINES
from reporting import arguments, progress, show, write
from torch import Tensor, nn

from jd_plugin_bench.live_memory import peak_bytes
from jd_plugin_bench.models import CLASSES, Block, Classifier
from jd_plugin_bench.steps import Run
from jd_plugin_bench.timing import measured


@dataclass(frozen=True)
class Sweep:
    """One size that grows, the others staying as they are."""

    name: str
    sizes: tuple[int, ...]
    case: Callable[[int], tuple[nn.Module, Tensor]]
    """A model and its inputs."""


def _mlp(width: int) -> nn.Module:
    layers = [nn.Linear(256, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def _transformer() -> nn.Module:
    return Classifier(nn.Sequential(Block(128, 4), Block(128, 4)), 128)


SWEEPS: Final = (
    Sweep(
        "objectives",
        (16, 32, 64, 128, 256, 512, 1024),
        lambda m: (_mlp(512), torch.randn(m, 256)),
    ),
    Sweep(
        "width", (64, 128, 256, 512, 1024, 2048), lambda width: (_mlp(width), torch.randn(64, 256))
    ),
    Sweep(
        "sequence length",
        (16, 32, 64, 128, 256, 512),
        lambda length: (_transformer(), torch.randn(8, length, 128)),
    ),
)


def main() -> None:
    """Measures, prints, and writes JSON."""
    given = arguments(__doc__)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="There is a performance drop")
    rows: list[Mapping[str, Any]] = []
    sizes = {sweep.name: sweep.sizes[:4] if given.quick else sweep.sizes for sweep in SWEEPS}
    with progress(sum(map(len, sizes.values()))) as advance:
        for sweep in SWEEPS:
            for size in sizes[sweep.name]:
                advance(f"{sweep.name} {size}")
                rows += _measured(sweep, size, given.device, 5 if given.quick else 7)
    exponents = _exponents(rows)
    show("A step, by size", [_readable(row) for row in rows])
    show("Exponents", [{key: str(value) for key, value in row.items()} for row in exponents])
    print(f"wrote {write('scaling', given, [*rows, *exponents])}")


def _measured(sweep: Sweep, size: int, device: str, rounds: int) -> list[Mapping[str, Any]]:
    model, inputs = sweep.case(size)
    original, inputs = model.to(device), inputs.to(device)
    classes = torch.randint(CLASSES, (len(inputs),), device=device)
    runs = {name: Run(make, original, inputs, classes) for name, make in ENGINES.items()}
    for run in runs.values():
        run()
    memory = {name: peak_bytes(run, run.model, device) for name, run in runs.items()}
    times = measured(runs, rounds)
    return [
        {
            "sweep": sweep.name,
            "size": size,
            "contestant": name,
            "ms": 1e3 * statistics.median(times[name]),
            "MiB": memory[name] / 2**20,
        }
        for name in runs
    ]


def _exponents(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each sweep and contestant."""
    found = []
    for sweep in SWEEPS:
        for name in ENGINES:
            chosen = [r for r in rows if (r["sweep"], r["contestant"]) == (sweep.name, name)]
            larger = chosen[len(chosen) // 2 :]
            sizes = [row["size"] for row in larger]
            found.append(
                {
                    "sweep": sweep.name,
                    "contestant": name,
                    "exponent of time": round(_slope(sizes, [row["ms"] for row in larger]), 2),
                    "exponent of memory": round(_slope(sizes, [row["MiB"] for row in larger]), 2),
                }
            )
    return found


def _slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    fitted = statistics.linear_regression(list(map(math.log, sizes)), list(map(math.log, values)))
    return fitted.slope


def _readable(row: Mapping[str, Any]) -> dict[str, str]:
    return {key: f"{v:.3g}" if isinstance(v, float) else str(v) for key, v in row.items()}


if __name__ == "__main__":
    main()
