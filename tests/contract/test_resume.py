"""Ten steps, save, a new process, load, ten steps: as twenty steps, bit for bit.

It is asked of every installed method, and so of each that has a state, whether it says so or not.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.names import Kind
from jdframework.testing import derived_suite

from . import resuming
from .resuming import HALF, Run

KINDS: tuple[Kind, ...] = ("weighting", "aggregator", "scalarizer")
METHODS = [(kind, name) for kind in KINDS for name in jd.available(kind)]


def config_of(kind: Kind, name: str) -> dict[str, Any]:
    """The settings that the method requires, and a seed where it takes one."""
    suite = derived_suite(kind, name)
    seeded = "seed" in jd.describe(name, kind).config_schema.get("properties", {})
    return {**suite.config, **({"seed": 0} if seeded else {})}


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
