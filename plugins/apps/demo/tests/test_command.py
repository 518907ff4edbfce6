"""``jd demo``."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from jdframework.cli import main

from jd_plugin_demo import command
from jd_plugin_demo.training import Setting

JD = Path(sysconfig.get_path("scripts")) / "jd"

IN_A_PROCESS_OF_ITS_OWN = """
import sys
from jd_plugin_demo import command
from jdframework.cli import main
from jd_plugin_demo.training import Setting

command._setting = lambda *_: Setting(epochs=1, train_pairs=200, test_pairs=60, measure_every=2)
sys.argv = ["jd", "demo", *sys.argv[1:]]
main()
"""

Demo: TypeAlias = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tiny_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Demo:
    """``jd demo`` on a few pictures: its status, and what it printed."""

    def setting(quick: bool, epochs: int | None, seed: int) -> Setting:
        return Setting(
            epochs=epochs or 1, train_pairs=200, test_pairs=60, measure_every=2, seed=seed
        )

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        monkeypatch.setattr(sys, "argv", ["jd", "demo", *arguments])
        monkeypatch.setattr(command, "_setting", setting)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def test_the_table_is_printed_and_the_report_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN, "--methods", "sum,mgda"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    heading, *lines = done.stdout.splitlines()
    assert " ".join(heading.split()) == "method left right mean conflict ms per step"
    assert [line.split()[0] for line in lines[:2]] == ["sum", "mgda"]
    assert lines[-1] == f"Report: {Path('report', 'report.html')}"
    page = tmp_path.joinpath("report", "report.html").read_text(encoding="utf-8")
    assert "jd demo --methods sum,mgda" in page
    assert sorted(path.name for path in tmp_path.joinpath("report").iterdir()) == [
        "curves.csv",
        "report.html",
        "results.csv",
    ]
    assert "\x1b" not in done.stdout


def test_json_has_the_setting_the_results_and_the_files(tmp_path: Path, tiny_demo: Demo) -> None:
    arguments = ("--methods", "uw", "--seed", "7", "--epochs", "2", "--out", "here", "--json")
    status, out, _ = tiny_demo(*arguments)
    found = json.loads(out)
    assert status == 0
    assert (found["setting"]["seed"], found["setting"]["epochs"]) == (7, 2)
    assert [row["method"] for row in found["results"]] == ["uw"]
    assert all(tmp_path.joinpath(path).is_file() for path in found["files"].values())


def test_unknown_names_are_reported_before_anything_is_trained(
    tmp_path: Path, tiny_demo: Demo
) -> None:
    status, out, err = tiny_demo("--methods", "sum,upgrd,nothing")
    first, second = err.splitlines()
    assert (status, out) == (1, "")
    assert "'upgrd'" in first
    assert "'nothing'" in second
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [["--epochs", "0"], ["--seed", "-1"], ["--out", __file__]], ids=lambda a: a[0]
)
def test_a_value_that_cannot_be_is_refused_with_status_2(
    tmp_path: Path, tiny_demo: Demo, arguments: list[str]
) -> None:
    status, _, err = tiny_demo(*arguments)
    assert status == 2
    assert arguments[0] in err
    assert not list(tmp_path.iterdir())


def test_quick_and_epochs_make_the_training_shorter() -> None:
    default, quick, both = (
        command._setting(False, None, 0),
        command._setting(True, None, 0),
        command._setting(True, 1, 0),
    )
    assert default.steps > 5 * quick.steps
    assert both.steps == quick.steps_per_epoch


@pytest.mark.slow
def test_the_quick_demo_takes_less_than_30_seconds_of_one_core(tmp_path: Path) -> None:
    before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    done = subprocess.run(
        [JD, "demo", "--quick", "--json"],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
        check=True,
    )
    seconds = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before
    results = json.loads(done.stdout)["results"]
    assert [row["method"] for row in results] == ["sum", "uw", "mgda", "upgrad"]
    assert min(row["mean_accuracy"] for row in results) > 0.7
    assert seconds < 30
