"""Ten steps, save, a new process, load, ten steps: as twenty steps, bit for bit.

So it is after a SIGKILL between two checkpoints. It is asked of every installed method, and so of
each that has a state, whether it says so or not.
"""

from __future__ import annotations

import json
import random
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import jdframework as jd
from jdframework.protocols.names import Kind
from jdframework.testing import derived_suite

from . import resuming
from .killed import STEPS, load
from .resuming import HALF, OBJECTIVES, Run

KINDS: tuple[Kind, ...] = ("weighting", "aggregator", "scalarizer")
ROOT = Path(__file__).parents[2]
METHODS = [(kind, name) for kind in KINDS for name in jd.available(kind)]


def config_of(kind: Kind, name: str) -> dict[str, Any]:
    """The settings that the method requires, and a seed where it takes one."""
    required = derived_suite(kind, name).config
    config = {k: (2 * v)[:OBJECTIVES] if isinstance(v, list) else v for k, v in required.items()}
    seeded = "seed" in jd.describe(name, kind).config_schema.get("properties", {})
    return {**config, **({"seed": 0} if seeded else {})}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the other process, so that sums are taken in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, _one_thread: None) -> Path:
    """Every method's first half, saved, and then the other process's second half."""
    target = tmp_path_factory.mktemp("runs")
    for kind, name in METHODS:
        spec = (kind, name, config_of(kind, name))
        run = Run.fresh(*spec)
        run.train(0, HALF)
        torch.save({"spec": spec, "state": run.state()}, target / f"{kind}-{name}.saved")
    subprocess.run([sys.executable, "-W", "error", resuming.__file__, target], check=True)
    return target


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_training_goes_on_in_a_new_process_bit_for_bit(kind: Kind, name: str, folder: Path) -> None:
    resumed = torch.load(folder / f"{kind}-{name}.resumed", weights_only=True)
    assert "error" not in resumed, resumed["error"]
    run = Run.fresh(kind, name, config_of(kind, name))
    weights = run.train(0, 2 * HALF)
    expected = {"weights": weights[HALF:], "state": run.state()}
    different = differences(expected, resumed)
    assert not different, f"after the checkpoint these differ: {', '.join(different)}"


def differences(expected: Any, found: Any, where: str = "") -> list[str]:
    """The paths to what is not the same in every bit."""
    if isinstance(expected, dict):
        if expected.keys() != found.keys():
            return [f"{where} has {sorted(map(str, found))}, not {sorted(map(str, expected))}"]
        pairs = [(expected[key], found[key], f"{where}.{key}") for key in expected]
    elif isinstance(expected, list | tuple):
        if len(expected) != len(found):
            return [f"{where} has {len(found)} entries, not {len(expected)}"]
        pairs = [
            (*pair, f"{where}[{i}]") for i, pair in enumerate(zip(expected, found, strict=True))
        ]
    elif isinstance(expected, Tensor):
        same = expected.dtype == found.dtype and expected.shape == found.shape
        same = same and expected.numpy().tobytes() == found.numpy().tobytes()  # NaN is NaN
        return [] if same else [where.lstrip(".")]
    else:
        return [] if expected == found else [where.lstrip(".")]
    return [difference for pair in pairs for difference in differences(*pair)]


def test_a_state_that_is_left_out_is_noticed() -> None:
    """Of a method that keeps a number outside of ``state_dict()``, the second half differs."""
    spec: tuple[Kind, str, dict[str, Any]] = ("scalarizer", "dwa", {})
    if "dwa" not in jd.available("scalarizer"):
        pytest.skip("jd-plugin-dwa is not installed")
    whole, interrupted = Run.fresh(*spec), Run.fresh(*spec)
    weights = whole.train(0, 2 * HALF)
    interrupted.train(0, HALF)
    state = interrupted.state()
    forgetful = Run.fresh(*spec)
    forgetful.load({**state, "method": forgetful.descent.state_dict()})
    assert differences(weights[HALF:], forgetful.train(HALF, 2 * HALF))


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """For every method: SIGKILL between two checkpoints, again and again, changes no bit."""
    runs = [
        (f"{kind}-{name}{('.pt', '.safetensors')[i % 2]}", kind, name, config_of(kind, name))
        for i, (kind, name) in enumerate(METHODS)
    ]
    (tmp_path / "runs.json").write_text(json.dumps(runs), "utf-8")
    whole = [Run.fresh(*spec) for _, *spec in runs]
    for run in whole:
        run.train(0, STEPS)
    seed, kills = secrets.randbits(32), 0
    moments = random.Random(seed)  # noqa: S311  # a test's moments are no secret
    for _ in range(2):
        rest = STEPS * len(runs) - sum(done_in(tmp_path / file) for file, *_ in runs)
        kills += not ends(tmp_path, after=moments.randrange(1, rest // 2))
    assert kills == 2
    assert ends(tmp_path)
    for (file, *spec), expected in zip(runs, whole, strict=True):
        found = Run.fresh(*spec)
        assert load(found, tmp_path / file) == STEPS
        different = differences(expected.state(), found.state())
        assert not different, (
            f"{file}: after {kills} kills (seed {seed}) these differ: {', '.join(different)}"
        )


def done_in(path: Path) -> int:
    """How many steps the checkpoint has seen."""
    if not path.exists():
        return 0
    saved = load_file(path) if path.suffix == ".safetensors" else torch.load(path)
    return int(saved["done"])


def ends(folder: Path, after: int | None = None) -> bool:
    """Trains in a process, which is killed ``after`` so many steps; whether it ended by itself."""
    command = [sys.executable, "-W", "error", "-m", "tests.contract.killed", folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for taken, line in enumerate(process.stdout, 1):
            assert line == "step\n"
            if taken == after:  # the process is by now in the next step, or saves
                process.kill()
        return process.wait() != -signal.SIGKILL


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_a_state_is_tensors_that_safetensors_takes(kind: Kind, name: str, tmp_path: Path) -> None:
    run = Run.fresh(kind, name, config_of(kind, name))
    for _ in range(2):
        state = run.descent.state_dict()
        assert all(isinstance(value, Tensor) for value in state.values())
        save_file(state, tmp_path / "state.safetensors")
        fresh = Run.fresh(kind, name, config_of(kind, name)).descent
        fresh.load_state_dict(load_file(tmp_path / "state.safetensors"))
        assert not differences(state, fresh.state_dict())
        run.train(0, 3)
