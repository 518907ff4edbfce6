"""What a multi-task step costs: a shared trunk, K heads, one loss of the whole batch for each.

The method is the mean, so that only the engine is measured. Contestants: an ordinary training step
(the mean of the losses, one backward pass), autogram, and torchjd's ``mtl_backward``, batched with
vmap and one by one. The heads get their own plain gradient in all of them.
"""

from __future__ import annotations

import copy
import statistics
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import torch
import torchjd.autojac
from reporting import arguments, progress, show, write
from torch import Tensor, nn
from torchjd.aggregation import Mean

import jdframework as jd

from jd_plugin_bench.live_memory import peak_bytes
from jd_plugin_bench.timing import measured, ratio

_BATCH: Final = 128
_TASKS: Final = (2, 3, 10, 40)
_TARGETS: Final = {"MLP": {2: 1.35, 3: 1.8, 10: 4.0, 40: 11.0}}


class Shared(nn.Module):
    """A trunk and its heads."""

    def __init__(self, trunk: nn.Module, tasks: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Linear(256, 1) for _ in range(tasks))

    def forward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = self.trunk(inputs)
        outputs = [head(features).flatten() for head in self.heads]
        pairs = zip(outputs, targets, strict=True)
        return features, [(output - target).square().mean() for output, target in pairs]


_Step = Callable[[Tensor, list[Tensor]], object]


def main() -> None:
    """Measures, prints, and writes JSON."""
    given = arguments(__doc__)
    torch.manual_seed(0)
    # torch says where vmap has to loop; that is part of what is measured here.
    warnings.filterwarnings("ignore", message="There is a performance drop")
    tasks = (3, 10) if given.quick else _TASKS
    cases = [(name, count) for name in _TRUNKS for count in tasks]
    rows: list[Mapping[str, Any]] = []
    with progress(len(cases)) as advance:
        for name, count in cases:
            advance(f"{name}, {count} tasks")
            rows.append(_row(name, count, given.device, given.quick))
    show("A multi-task step", [{k: _text(v) for k, v in row.items()} for row in rows])
    print(f"wrote {write('task_step', given, rows)}")


def _row(name: str, count: int, device: str, quick: bool) -> Mapping[str, Any]:
    make, shape = _TRUNKS[name]
    inputs = torch.randn(_BATCH, *shape, device=device)
    targets = torch.randn(count, _BATCH, device=device)
    original = Shared(make(), count).to(device)
    # Each has its own copy, because one's hooks would slow the others' forward passes.
    models = {contestant: copy.deepcopy(original) for contestant in _STEPS}
    steps = {c: _prepared(_STEPS[c], models[c], inputs, targets) for c in _STEPS}
    memory = {}
    for contestant in ("ordinary", "autogram"):
        steps[contestant]()
        memory[contestant] = peak_bytes(steps[contestant], models[contestant], device)
    times = measured(steps, 3 if quick else 7)
    ordinary, ours = times["ordinary"], times["autogram"]
    best = min((times[c] for c in steps if c.startswith("torchjd")), key=statistics.median)
    return {
        "trunk": name,
        "tasks": count,
        "ordinary, ms": 1e3 * statistics.median(ordinary),
        "autogram / ordinary": ratio(ours, ordinary),
        "at most": _TARGETS.get(name, {}).get(count),
        "torchjd, vmap / ordinary": ratio(times["torchjd, vmap"], ordinary),
        "torchjd, one by one / ordinary": ratio(times["torchjd, one by one"], ordinary),
        "torchjd's better / autogram": ratio(best, ours),
        "memory / ordinary": memory["autogram"] / memory["ordinary"],
    }


def _prepared(
    make: Callable[[Shared], _Step], model: Shared, inputs: Tensor, targets: Tensor
) -> Callable[[], None]:
    step = make(model)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        features, losses = model(inputs, targets)
        step(features, losses)

    return run


def _ordinary(model: Shared) -> _Step:
    return lambda features, losses: torch.stack(losses).mean().backward()


def _autogram(model: Shared) -> _Step:
    engine, weighting = jd.engine("autogram", model.trunk), jd.weighting("mean")
    return lambda features, losses: engine.backward(losses, weighting, features=[features])


def _torchjd(model: Shared, *, at_once: int | None) -> _Step:
    shared, aggregator = list(model.trunk.parameters()), Mean()

    def step(features: Tensor, losses: list[Tensor]) -> None:
        torchjd.autojac.mtl_backward(losses, features=features, parallel_chunk_size=at_once)
        torchjd.autojac.jac_to_grad(shared, aggregator)

    return step


_STEPS: Final[dict[str, Callable[[Shared], _Step]]] = {
    "ordinary": _ordinary,
    "autogram": _autogram,
    "torchjd, vmap": partial(_torchjd, at_once=None),
    "torchjd, one by one": partial(_torchjd, at_once=1),
}


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(784, 1024),
        nn.ReLU(),
        nn.Linear(1024, 1024),
        nn.ReLU(),
        nn.Linear(1024, 256),
        nn.ReLU(),
    )


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 8 * 8, 256),
        nn.ReLU(),
    )


_TRUNKS: Final[dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]] = {
    "MLP": (_mlp, (784,)),
    "CNN": (_cnn, (3, 32, 32)),
}


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
