"""What a step costs on models that nobody here wrote, in ordinary steps.

Instance-wise: one loss for each of a few instances (layers of batch norm in eval mode). Task-wise:
three heads on the pooled output, which is given as features. Each model runs in a process of its
own, on one thread; times are of the processor. Contestants, in turn in the same process: an
ordinary step, ``Descent`` with ``engine="auto"``, the same with ``engine="autojac"``, and torchjd's
two engines. ``zoo_models.py`` has the models, and pyproject.toml's group ``zoo`` what they need.

    python benchmarks/zoo.py                          # every model that can be imported
    python benchmarks/zoo.py --only "swin|mamba" --modes tasks
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from reporting import RESULTS, progress, show, write
from torch import Tensor, nn
from torch.nn import functional

import jdframework as jd

_ROUNDS: Final = 5
_LARGE: Final = 5_000_000
"""From how many parameters on a batch is cut down to four."""
_KINDS: Final = ("ordinary", "auto", "autojac", "torchjd autogram", "torchjd autojac")

_Step = Callable[[], object]


def main() -> None:
    """Measures, prints, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--only", default="", help="a regular expression for the models' names")
    parser.add_argument("--modes", default="instance,tasks", help="which of the two")
    parser.add_argument("--quick", action="store_true", help="without torchjd")
    parser.add_argument("--device", default="cpu", help="cpu")
    parser.add_argument("--out", type=Path, help="the JSON file; by default below results/")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "MODE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(_measured(*given.one, quick=given.quick)))
        return
    cases = importlib.import_module("zoo_models").CASES
    wanted = [
        (case.name, mode)
        for case in cases
        if re.search(given.only, case.name) and not case.natural_only
        for mode in given.modes.split(",")
        if mode != "tasks" or case.loss != "diag"
    ]
    rows = []
    with progress(len(wanted)) as advance:
        for name, mode in wanted:
            advance(f"{name}, {mode}")
            rows.append(_in_own_process(name, mode, quick=given.quick))
    if rows:
        show("A step on other people's models, in ordinary steps", [_text(row) for row in rows])
        print(_summary(rows))
        print(f"wrote {write('zoo', given, rows)}; {RESULTS} has the committed ones")


class _Plain(argparse.RawDescriptionHelpFormatter):
    pass


def _in_own_process(name: str, mode: str, *, quick: bool) -> Mapping[str, Any]:
    """One case in a process of its own, which may crash or hang."""
    command = [sys.executable, __file__, "--one", name, mode, *(["--quick"] if quick else [])]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=900, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return {"model": name, "mode": mode, "error": "not done in 15 minutes"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return {"model": name, "mode": mode, "error": said[0][:300]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _measured(name: str, mode: str, *, quick: bool) -> Mapping[str, Any]:
    """The ratios of one case to an ordinary step, by pairs that ran in turn."""
    torch.set_num_threads(1)
    case = next(c for c in importlib.import_module("zoo_models").CASES if c.name == name)
    row: dict[str, Any] = {"model": name, "mode": mode}
    size = sum(p.numel() for p in case.build(0.0).parameters())
    n = min(4, case.sizes[1]) if size > _LARGE else case.sizes[1]
    row |= {"parameters": size, "n": n}
    runs: dict[str, _Run] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in _KINDS[:3] if quick else _KINDS:
            try:
                run = _Run(case, mode, kind, n)
                run()
                run()
            except Exception as error:  # whatever a library or a peer raises is a cell of the table
                if kind in {"ordinary", "auto"}:
                    raise
                row[f"{kind} failed"] = f"{type(error).__name__}: {error}"[:200]
                continue
            runs[kind] = run
        step = runs["auto"].step
        row |= {"engine": step.engine, "passes": _passes(runs["auto"])}
        times: dict[str, list[float]] = {kind: [] for kind in runs}
        for number in range(_ROUNDS + 1):
            for kind, run in runs.items():
                start = time.process_time()
                run()
                if number:
                    times[kind].append(time.process_time() - start)
    row["ms"] = round(1e3 * statistics.median(times["ordinary"]), 2)
    for kind, own in times.items():
        if kind != "ordinary":
            pairs = zip(own, times["ordinary"], strict=True)
            row[kind] = round(statistics.median(a / b for a, b in pairs), 3)
    return row


def _passes(run: _Run) -> int:
    """How many backward passes start from the losses or features in a steady step."""
    count, grad = 0, torch.autograd.grad

    def counted(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += any(isinstance(output, Tensor) for output in outputs)
        return grad(outputs, *args, **kwargs)

    torch.autograd.grad = counted
    try:
        run()
    finally:
        torch.autograd.grad = grad
    return count


class _Run:
    """A model, its inputs, and one way to take a step."""

    def __init__(self, case: Any, mode: str, kind: str, n: int) -> None:
        self._case, self._mode, self._kind = case, mode, kind
        _seed(0)
        self._model: nn.Module = _perturbed(case.build(0.0))
        for layer in self._model.modules():
            if mode == "instance" and isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
        self._inputs = case.batch(n, torch.Generator().manual_seed(100))
        self._heads: nn.ModuleDict | None = None
        if mode == "tasks":
            with torch.no_grad():
                width = _pooled(case.run(self._model, self._inputs)).shape[1]
            self._heads = _heads(width)
        self.step: Any = None
        self._take = self._way()

    def __call__(self) -> None:
        """One step, without the optimizer's."""
        self._model.zero_grad(set_to_none=True)
        if self._heads is not None:
            self._heads.zero_grad(set_to_none=True)
        _seed(1000)
        if self._heads is None:
            self._take(self._instance_losses(), None)
        else:
            features = _pooled(self._case.run(self._model, self._inputs))
            self._take(_task_losses(features, self._heads), features)

    def _way(self) -> Callable[[Any, Tensor | None], None]:
        batch_dim = 0 if self._mode == "instance" else None
        if self._kind == "ordinary":
            return lambda losses, _: (
                losses.mean() if isinstance(losses, Tensor) else sum(losses.values())
            ).backward()
        if self._kind in {"auto", "autojac"}:
            descent = jd.Descent(self._model, "upgrad", batch_dim=batch_dim, engine=self._kind)

            def ours(losses: Any, features: Tensor | None) -> None:
                self.step = descent.backward(losses, features=features)

            return ours
        return self._peer(batch_dim)

    def _peer(self, batch_dim: int | None) -> Callable[[Any, Tensor | None], None]:
        from torchjd.aggregation import UPGrad, UPGradWeighting
        from torchjd.autogram import Engine
        from torchjd.autojac import backward, jac_to_grad, mtl_backward

        parameters = [p for p in self._model.parameters() if p.requires_grad]
        if self._kind == "torchjd autogram":
            engine, weighting = Engine(self._model, batch_dim=batch_dim), UPGradWeighting()

            def by_gramian(losses: Any, _: Tensor | None) -> None:
                vector = losses if isinstance(losses, Tensor) else torch.stack([*losses.values()])
                vector.backward(weighting(engine.compute_gramian(vector)))

            return by_gramian
        aggregator = UPGrad()

        def by_jacobian(losses: Any, features: Tensor | None) -> None:
            if features is None:
                backward(losses, inputs=parameters)
            else:
                mtl_backward([*losses.values()], features=features)
            jac_to_grad([p for p in parameters if getattr(p, "jac", None) is not None], aggregator)

        return by_jacobian

    def _instance_losses(self) -> Tensor:
        case = self._case
        if case.instance_losses is not None:
            found: Tensor = case.instance_losses(self._model, self._inputs)
            return found
        output = case.run(self._model, self._inputs)
        draw = torch.Generator().manual_seed(900)
        if case.loss == "diag":
            return functional.cross_entropy(output, torch.arange(len(output)), reduction="none")
        if case.loss == "lm":
            labels = torch.randint(0, output.shape[-1], output.shape[:-1], generator=draw)
            flat = functional.cross_entropy(
                output.flatten(0, 1), labels.flatten(), reduction="none"
            )
            return flat.reshape(labels.shape).mean(1)
        if case.loss in {"auto", "cls"} and output.ndim == 2 and output.shape[1] > 1:
            labels = torch.randint(0, output.shape[1], (len(output),), generator=draw)
            return functional.cross_entropy(output, labels, reduction="none")
        target = torch.randn(output.shape, generator=draw)
        squares: Tensor = (output - target).square()
        return squares.flatten(1).mean(1)


def _seed(number: int) -> None:
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)  # what the libraries draw from


def _perturbed(model: nn.Module) -> nn.Module:
    """Parameters that begin as constants get some noise, so that no gradient is zero by them."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            real = p.is_floating_point() and not p.is_complex()
            if real and (p.numel() < 2 or float(p.max() - p.min()) < 1e-7):
                p.add_(0.05 * torch.randn(p.shape, generator=draw))
    return model.train()


def _pooled(output: Tensor) -> Tensor:
    if output.ndim == 2:
        return output
    return output.mean(1) if output.ndim == 3 else output.flatten(2).mean(2)


def _heads(width: int) -> nn.ModuleDict:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)
        sizes = {"depth": 1, "class": 5, "normals": 3}
        return nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})


def _task_losses(features: Tensor, heads: nn.ModuleDict) -> dict[str, Tensor]:
    draw, n = torch.Generator().manual_seed(700), len(features)
    depth, labels = torch.randn(n, 1, generator=draw), torch.randint(0, 5, (n,), generator=draw)
    normals = torch.randn(n, 3, generator=draw)
    return {
        "depth": functional.mse_loss(heads["depth"](features), depth),
        "class": functional.cross_entropy(heads["class"](features), labels),
        "normals": functional.smooth_l1_loss(heads["normals"](features), normals),
    }


def _text(row: Mapping[str, Any]) -> dict[str, str]:
    columns = ("model", "mode", "engine", "passes", *_KINDS[1:])
    found = {column: str(row.get(column, "")) for column in columns}
    if "error" in row:
        found["engine"] = "failed"
    return found


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """The medians, and how often the peer's better engine is quicker."""
    lines = []
    for mode in dict.fromkeys(row["mode"] for row in rows):
        own = [row for row in rows if row["mode"] == mode and "auto" in row]
        if not own:
            continue
        peers = [[row[kind] for kind in _KINDS[3:] if kind in row] for row in own]
        slower = sum(bool(p) and min(p) < row["auto"] for row, p in zip(own, peers, strict=True))
        few = sum(row["passes"] <= 2 for row in own)
        lines.append(
            f"{mode}: {len(own)} models, median {statistics.median(r['auto'] for r in own):.2f} "
            f"ordinary steps; one or two passes in {few}; torchjd's better engine is quicker in "
            f"{slower} of {sum(map(bool, peers))}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
