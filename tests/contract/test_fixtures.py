"""The fixtures that pytest finds as soon as the kernel is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

USING = """
import torch
from jdframework.testing import FAMILIES

seen = []

def test_family(jd_family):
    seen.append(jd_family.name)
    assert jd_family(4).shape[0] == 4

def test_jacobian(jd_jacobian):
    assert jd_jacobian.dtype == torch.float64 and len(jd_jacobian) == 3

def test_precision(jd_device, jd_dtype):
    assert torch.ones(1, device=jd_device, dtype=jd_dtype).is_floating_point()

def test_every_family_was_there():
    assert seen == list(FAMILIES)
"""

NOT_USING = """
import sys

def test_nothing_was_imported():
    assert "torch" not in sys.modules and "jdframework.testing.suite" not in sys.modules
"""


def run(folder: Path, code: str, *options: str) -> str:
    file = folder / "test_it.py"
    file.write_text(code, "utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
            *options,
            file,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_test_runs_once_for_each_family_device_and_dtype(tmp_path: Path) -> None:
    out = run(tmp_path, USING, "-v")
    for case in ("test_family[badly scaled]", "test_jacobian[opposite rows]", "[cpu-bfloat16]"):
        assert case in out


def test_tests_that_take_none_pay_nothing(tmp_path: Path) -> None:
    run(tmp_path, NOT_USING, "-p", "no:hypothesispytest", "-p", "no:jaxtyping")


@pytest.mark.parametrize("fixture", ["jd_family", "jd_jacobian", "jd_device", "jd_dtype"])
def test_pytest_lists_the_fixtures_with_what_they_give(tmp_path: Path, fixture: str) -> None:
    assert f"\n{fixture}" in run(tmp_path, NOT_USING, "--fixtures")
