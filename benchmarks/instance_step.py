"""What an instance-wise step costs: forward pass, Gramian, weights and ``.grad``.

The method is the mean, so that only the engine is measured. Contestants: an ordinary training step
(the mean of the losses, one backward pass), autogram, and torchjd's autogram and autojac.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Mapping
from typing import Any, Final

import torch
from contestants import ENGINES, torchjd_autojac
from reporting import arguments, progress, show, write

from jd_plugin_bench.live_memory import peak_bytes
from jd_plugin_bench.models import SUBJECTS, Subject, batch_of
from jd_plugin_bench.steps import Run
from jd_plugin_bench.timing import measured, ratio

_TARGETS: Final[dict[str, dict[int, tuple[float, float, float]]]] = {
    "mlp": {64: (1.05, 50, 1.3), 256: (1.2, 120, 1.3)},
    "cnn": {64: (1.15, 2.2, 1.4)},
    "transformer": {16: (1.3, 2, 1.5), 32: (1.4, 2, 1.5)},
    "encoder": {16: (1.3, 2, 1.5), 32: (1.4, 2, 1.5)},
    "resnet18": {16: (1.6, 4.5, 1.6)},
    "mobilenet": {8: (1.3, 3, 1.6)},
}
"""By model and batch: at most how many ordinary steps, at least how many times as fast as torchjd's
autogram, and at most how many times an ordinary step's memory."""


def main() -> None:
    """Measures, prints, and writes JSON."""
    given = arguments(__doc__)
    torch.manual_seed(0)
    # torch says where vmap has to loop; that is part of what is measured here.
    warnings.filterwarnings("ignore", message="There is a performance drop")
    cases = [(subject, size) for subject in SUBJECTS.values() for size in subject.batches]
    rows: list[Mapping[str, Any]] = []
    with progress(len(cases)) as advance:
        for subject, size in cases:
            advance(f"{subject.name}, batch {size}")
            rows.append(_row(subject, size, given.device, given.quick))
    show("An instance-wise step", [{k: _text(v) for k, v in row.items()} for row in rows])
    print(f"wrote {write('instance_step', given, rows)}")


def _row(subject: Subject, size: int, device: str, quick: bool) -> Mapping[str, Any]:
    inputs, classes = batch_of(subject, size, device)
    original = subject.model().to(device)
    runs = {name: Run(make, original, inputs, classes) for name, make in ENGINES.items()}
    memory = {}
    for name in ("ordinary", "autogram"):
        runs[name]()
        memory[name] = peak_bytes(runs[name], runs[name].model, device)
    times = measured(runs, 5 if quick else 11)
    slow = Run(torchjd_autojac, original, inputs, classes)
    slowest = measured({"slow": slow}, 1, warm_up=1)["slow"]
    ours, ordinary = times["autogram"], times["ordinary"]
    slower, faster, larger = _TARGETS[subject.name][size]
    return {
        "model": subject.name,
        "batch": size,
        "ordinary, ms": 1e3 * statistics.median(ordinary),
        "autogram / ordinary": ratio(ours, ordinary),
        "at most": slower,
        "torchjd / autogram": ratio(times["torchjd autogram"], ours),
        "at least": faster,
        "torchjd autojac / ordinary": statistics.median(slowest) / statistics.median(ordinary),
        "memory / ordinary": memory["autogram"] / memory["ordinary"],
        "memory at most": larger,
    }


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
