"""Training of several methods, in turn, that may be killed at any moment and started again.

As a program, ``python -m tests.contract.killed FOLDER`` trains every run that is described in
``FOLDER/runs.json`` from its last checkpoint to the end. It prints a line after each step.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .resuming import Run

STEPS: Final = 12
BETWEEN: Final = 5
"""Steps from one checkpoint to the next, so that most moments lie between two."""


def save(run: Run, done: int, path: Path) -> None:
    """Writes a checkpoint that is there as a whole or not at all, as its suffix says."""
    part = path.with_suffix(".part")
    if path.suffix == ".safetensors":
        save_file(_flat(run.state()) | {"done": torch.tensor(done)}, part)
    else:
        torch.save({"done": done, **run.state()}, part)
    os.replace(part, path)


def load(run: Run, path: Path) -> int:
    """Reads the last checkpoint back, strictly; the number of steps that it has seen."""
    if not path.exists():
        return 0
    if path.suffix != ".safetensors":
        state = torch.load(path, weights_only=True)
        run.load(state)
        return int(state["done"])
    found = load_file(path)
    optimizer = run.optimizer.state_dict()
    for key in [key for key in found if key.startswith("optimizer.")]:
        _, position, name = key.split(".")
        optimizer["state"].setdefault(int(position), {})[name] = found.pop(key)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "method": {}}
    done = int(found.pop("done"))
    for key, tensor in found.items():
        part, _, name = key.partition(".")
        parts[part][name] = tensor
    run.load({**parts, "optimizer": optimizer})
    return done


def _flat(state: dict[str, Any]) -> dict[str, Tensor]:
    """All tensors under one name each; the optimizer's settings are the program's, not state."""
    moments = {
        f"{position}.{name}": tensor
        for position, tensors in state["optimizer"]["state"].items()
        for name, tensor in tensors.items()
    }
    parts = {"model": state["model"], "method": state["method"], "optimizer": moments}
    return {f"{part}.{name}": t for part, tensors in parts.items() for name, t in tensors.items()}


def train(folder: Path) -> None:
    """Takes one step of each run after the other, so that a kill meets all of them halfway."""
    runs: dict[Path, tuple[Run, int]] = {}
    for file, *spec in json.loads((folder / "runs.json").read_text("utf-8")):
        run = Run.fresh(*spec)
        runs[folder / file] = run, load(run, folder / file)
    while any(done < STEPS for _, done in runs.values()):
        for path, (run, done) in runs.items():
            if done == STEPS:
                continue
            run.train(done, done + 1)
            print("step", flush=True)  # noqa: T201  # what the parent counts
            runs[path] = run, done + 1
            if (done + 1) % BETWEEN == 0 or done + 1 == STEPS:
                save(run, done + 1, path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]))
