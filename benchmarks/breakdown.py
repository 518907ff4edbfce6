"""Where the time of an instance-wise step goes, in ordinary steps.

Each part is the difference of two whole runs. An ordinary step is its forward pass, the backward
pass to the outputs of the layers, and the gradients of the weights. Ours has the first two and an
update that costs as much as the third; beyond that, there are the hooks and the Gramian. ``least``
is what is left if those two cost nothing.
"""

from __future__ import annotations

import copy
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
from reporting import arguments, progress, show, write
from torch import Tensor, nn
from torch.nn import functional

import jdframework as jd

from jd_plugin_bench.models import SUBJECTS, Subject, batch_of
from jd_plugin_bench.timing import measured

_PARTS: Final = ("forward", "to the layers", "update", "hooks", "Gramian", "step", "least")


def main() -> None:
    """Measures, prints, and writes JSON."""
    given = arguments(__doc__)
    torch.manual_seed(0)
    cases = [(subject, size) for subject in SUBJECTS.values() for size in subject.batches]
    rows: list[Mapping[str, Any]] = []
    with progress(len(cases)) as advance:
        for subject, size in cases:
            advance(f"{subject.name}, batch {size}")
            rows.append(_row(subject, size, given.device, 5 if given.quick else 15))
    show("The parts of a step, in ordinary steps", [_readable(row) for row in rows])
    print(f"wrote {write('breakdown', given, rows)}")


def _row(subject: Subject, size: int, device: str, rounds: int) -> Mapping[str, Any]:
    inputs, classes = batch_of(subject, size, device)
    bare = subject.model().to(device)
    hooked, watched = copy.deepcopy(bare), copy.deepcopy(bare)
    engine, weighting = jd.engine("autogram", hooked, batch_dim=0), jd.weighting("mean")
    outputs = _watch(watched)

    def losses(model: nn.Module) -> Tensor:
        outputs.clear()
        model.zero_grad(set_to_none=True)
        return functional.cross_entropy(model(inputs), classes, reduction="none")

    runs: dict[str, Callable[[], object]] = {
        "forward": partial(losses, bare),
        "ordinary": lambda: losses(bare).mean().backward(),
        "to the layers": lambda: torch.autograd.grad(losses(watched).sum(), outputs),
        "hooked": partial(losses, hooked),
        "gramian": lambda: engine.compute_gramian(losses(hooked)),
        "step": lambda: engine.backward(losses(hooked), weighting),
    }
    # Before each of them the same forward pass: what comes after a longer one pays for its traces.
    times = measured(runs, rounds, prepare=partial(losses, copy.deepcopy(bare)))
    ordinary = times.pop("ordinary")
    taken = {name: _share(own, ordinary) for name, own in times.items()}
    forward, passing = taken["forward"], taken["to the layers"] - taken["forward"]
    parts = {
        "forward": forward,
        "to the layers": passing,
        "update": taken["step"] - taken["gramian"],
        "hooks": taken["hooked"] - forward,
        "Gramian": taken["gramian"] - taken["hooked"] - passing,
        "step": taken["step"],
    }
    least = parts["forward"] + parts["to the layers"] + parts["update"]
    return {"model": subject.name, "batch": size, **parts, "least": least}


def _watch(model: nn.Module) -> list[Tensor]:
    """Gathers what the layers with parameters put out."""
    outputs: list[Tensor] = []

    def remember(_: nn.Module, __: Any, output: Tensor) -> None:
        outputs.append(output)

    for layer in model.modules():
        if next(layer.parameters(recurse=False), None) is not None and not any(layer.children()):
            layer.register_forward_hook(remember)
    return outputs


def _share(times: Sequence[float], ordinary: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, ordinary, strict=True))


def _readable(row: Mapping[str, Any]) -> dict[str, str]:
    shown = {"model": f"{row['model']}, {row['batch']}"}
    return shown | {part: f"{row[part]:.2f}" for part in _PARTS}


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
