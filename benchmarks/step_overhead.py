"""What Descent adds to a step, in two states of the code, in turn.

Each state has an interpreter of its own, in which it is installed; their processes take turns, and
a step is measured by processor time, beside the ordinary one and the bare engine of its process.

    python benchmarks/step_overhead.py before=/old/.venv/bin/python after=.venv/bin/python
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).parent / "results"
ROUNDS: Final = 5
PROGRAM: Final = """
import json, statistics, time
import torch
from torch import nn
import jdframework as jd

torch.set_num_threads(1)
MODELS = {
    "a step of some milliseconds": ((64, 512, 512, 4), 128),
    "a tiny model": ((8, 64, 64, 3), 16),
}

def measured(sizes, batch):
    torch.manual_seed(0)
    layers = [part for a, b in zip(sizes, sizes[1:]) for part in (nn.Linear(a, b), nn.ReLU())]
    model, x = nn.Sequential(*layers[:-1]), torch.randn(batch, sizes[0])
    weighting = jd.weighting("mgda")
    engine = jd.engine("autojac", model)
    ways = {
        "ordinary": lambda losses: losses.sum().backward(),
        "engine": lambda losses: engine.backward(losses, weighting),
        "Descent": jd.Descent(model, weighting, engine=engine).backward,
        "Descent, a scalarizer": jd.Descent(model, "sum").backward,
    }
    times = {name: [] for name in ways}
    for turn in range(220):
        for name, step in ways.items():
            model.zero_grad()
            losses = model(x).square().mean(0)
            start = time.process_time()
            step(losses)
            if turn >= 20:
                times[name].append(time.process_time() - start)
    return {name: 1e6 * statistics.median(each) for name, each in times.items()}

print(json.dumps({name: measured(*model) for name, model in MODELS.items()}))
"""


def main(states: dict[str, str]) -> None:
    """Measures, prints, and writes JSON."""
    found: dict[str, list[dict[str, Any]]] = {state: [] for state in states}
    for turn in range(ROUNDS):
        for state, python in states.items():
            print(f"{turn + 1} of {ROUNDS}: {state}", flush=True)
            done = subprocess.run(
                [str(Path(python).absolute()), "-W", "ignore", "-c", PROGRAM],
                check=True,
                capture_output=True,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                cwd="/",
            )
            found[state].append(json.loads(done.stdout))
    rows = [_row(state, model, runs) for state, runs in found.items() for model in runs[0]]
    for row in rows:
        print(row)
    written = RESULTS / "step_overhead-cpu.json"
    written.write_text(json.dumps({"benchmark": "step_overhead", "rows": rows}, indent=2), "utf-8")


def _row(state: str, model: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the runs, in microseconds of processor time."""
    of = {way: [run[model][way] for run in runs] for way in runs[0][model]}
    medians = {way: round(statistics.median(each)) for way, each in of.items()}
    added = [run[model]["Descent"] - run[model]["engine"] for run in runs]
    scalar = [run[model]["Descent, a scalarizer"] - run[model]["ordinary"] for run in runs]
    return {
        "state": state,
        "model": model,
        **medians,
        "Descent adds to the engine": round(statistics.median(added)),
        "a scalarizer adds to an ordinary step": round(statistics.median(scalar)),
    }


if __name__ == "__main__":
    main(dict(argument.split("=", 1) for argument in sys.argv[1:]))
