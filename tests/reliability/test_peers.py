"""The table of the documentation says what both libraries do, and not what it once said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "peers" / "reliability.py"
COMMITTED = ROOT / "benchmarks" / "results" / "peers-cpu.json"


def rows(path: Path) -> dict[int, dict[str, Any]]:
    return {row["row"]: row for row in json.loads(path.read_text("utf-8"))["rows"]}


def test_the_committed_table_has_thirteen_rows_each_of_which_we_keep() -> None:
    committed = rows(COMMITTED)
    assert list(committed) == list(range(1, 14))
    assert all(row["ours"]["kept"] is True for row in committed.values())


@pytest.mark.slow
def test_a_run_of_the_script_finds_what_the_committed_table_says(tmp_path: Path) -> None:
    out = tmp_path / "peers.json"
    subprocess.run([sys.executable, SCRIPT, "--out", out], check=True, capture_output=True)
    found, committed = rows(out), rows(COMMITTED)
    for number, row in committed.items():
        assert found[number]["peer"] == row["peer"]
        for whose in ("theirs", "ours"):
            now, then = found[number][whose], row[whose]
            assert now["kept"] == then["kept"], f"row {number}, {whose}: {now['observed']}"
