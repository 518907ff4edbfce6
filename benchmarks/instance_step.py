"""What an instance-wise step costs: forward pass, Gramian, weights and ``.grad``.

The method is the mean, so that only the engine is measured. Contestants: an ordinary training step
(the mean of the losses, one backward pass), autogram, and torchjd's autogram and autojac.
"""

from __future__ import annotations

import copy
import statistics
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
import torchjd.autogram
import torchjd.autojac
from timing import arguments, measured, progress, ratio, show, write
from torch import Tensor, nn
from torch.nn import functional
from torchjd.aggregation import Mean, MeanWeighting

import jdframework as jd
from jdframework.bench.live_memory import peak_bytes
from jdframework.bench.models import SUBJECTS, Subject, batch_of

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
    # Each has its own copy, because one's hooks would slow the others' forward passes.
    models = {name: copy.deepcopy(original) for name in _STEPS}
    steps = {name: _prepared(_STEPS[name], models[name], inputs, classes) for name in _STEPS}
    memory = {}
    for name in ("ordinary", "autogram"):
        steps[name]()
        memory[name] = peak_bytes(steps[name], models[name], device)
    slow = steps.pop("torchjd autojac")
    times = measured(steps, 5 if quick else 11)
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


def _prepared(
    make: Callable[[nn.Module], Callable[[Tensor], object]],
    model: nn.Module,
    inputs: Tensor,
    classes: Tensor,
) -> Callable[[], None]:
    step = make(model)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        step(functional.cross_entropy(model(inputs), classes, reduction="none"))

    return run


def _ordinary(model: nn.Module) -> Callable[[Tensor], object]:
    return lambda losses: losses.mean().backward()


def _autogram(model: nn.Module) -> Callable[[Tensor], object]:
    engine, weighting = jd.engine("autogram", model, batch_dim=0), jd.weighting("mean")
    return lambda losses: engine.backward(losses, weighting)


def _torchjd_autogram(model: nn.Module) -> Callable[[Tensor], object]:
    engine, weighting = torchjd.autogram.Engine(model, batch_dim=0), MeanWeighting()
    return lambda losses: losses.backward(weighting(engine.compute_gramian(losses)))


def _torchjd_autojac(model: nn.Module) -> Callable[[Tensor], object]:
    parameters, aggregator = list(model.parameters()), Mean()

    def step(losses: Tensor) -> None:
        torchjd.autojac.backward(losses)
        torchjd.autojac.jac_to_grad(parameters, aggregator)

    return step


_STEPS: Final[dict[str, Callable[[nn.Module], Callable[[Tensor], object]]]] = {
    "ordinary": _ordinary,
    "autogram": _autogram,
    "torchjd autogram": _torchjd_autogram,
    "torchjd autojac": _torchjd_autojac,
}


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
