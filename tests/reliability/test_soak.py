"""Two thousand steps with random faults end where a run without the faulty steps ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the documented command writes."""
    out = tmp_path_factory.mktemp("soak") / "soak.json"
    ran = subprocess.run(
        [sys.executable, SCRIPT, "--out", out], check=True, capture_output=True, text=True
    )
    assert "greatest difference in the end: " in ran.stdout
    found: list[dict[str, Any]] = json.loads(out.read_text("utf-8"))["rows"]
    return found


@pytest.mark.slow
def test_faults_leave_no_trace_in_two_thousand_steps(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["steps"] == 2000
        assert row["distance"] == 0.0, row
        assert 1000 < row["updates"] < 2000, row


@pytest.mark.slow
def test_every_fault_struck_every_method_on_every_engine(rows: list[dict[str, Any]]) -> None:
    assert {row["engine"] for row in rows} >= {"autograd", "autogram", "autojac", "chunked"}
    for row in rows:
        idle = [fault for fault, count in row["faults"].items() if count < 10]
        assert not idle, f"{row['method']}: {', '.join(idle)} hardly struck"
