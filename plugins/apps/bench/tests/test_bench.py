"""``jd bench``."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from torch import nn

import jdframework as jd
from jdframework.cli import main

from jd_plugin_autojac import Autojac
from jd_plugin_bench import models

Bench: TypeAlias = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """``jd bench``: its status, and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        monkeypatch.setattr(sys, "argv", ["jd", "bench", *arguments])
        monkeypatch.delenv("COLUMNS", raising=False)
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def refusing() -> Iterator[None]:
    """An engine that serves nothing small."""

    @jd.register("engine", "refusing")
    class Refusing(Autojac):
        """Serves nothing that is small."""

        @classmethod
        def refusal(cls, *_: Any) -> str:
            return "the model is too small; use a larger one"

    yield
    jd.unregister("engine", "refusing")


@pytest.fixture(autouse=True)
def _small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real ones take minutes."""
    small = models.Subject("small", lambda: nn.Linear(6, models.CLASSES), (6,), (4, 8))
    norm = models.Subject("norm", lambda: nn.Sequential(nn.LayerNorm(6), small.model()), (6,), (4,))
    monkeypatch.setattr(models, "SUBJECTS", {"small": small, "norm": norm})


def test_each_engine_is_compared_with_an_ordinary_step(bench: Bench) -> None:
    status, out, _ = bench("--json", "--engines", "autojac")
    assert status == 0
    figures = json.loads(out)
    assert [(case["model"], case["batch"]) for case in figures["cases"]] == [
        ("small", 4),
        ("small", 8),
        ("norm", 4),
    ]
    for case in figures["cases"]:
        (cost,) = case["costs"]
        assert cost["contestant"] == "autojac"
        assert 0 < cost["time"]["lowest"] <= cost["time"]["median"] <= cost["time"]["highest"]
        assert cost["memory"] > 0
    assert figures["machine"]["threads"] >= 1


def test_the_table_says_what_its_figures_are(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "new" / "figures.json"
    status, out, _ = bench("--quick", "--models=norm", "--method=upgrad", "--out", str(file))
    assert status == 0
    assert out.splitlines()[0].split() == [
        *("model", "batch", "plain,", "ms", "engine", "time", "memory")
    ]
    assert "in ordinary steps" in out
    assert json.loads(file.read_text("utf-8"))["method"] == "upgrad"


def test_torchs_profiler_says_nothing_beside_the_table() -> None:
    # A process of its own: what the profiler may say is settled when it first runs.
    run = (
        "import sys; from torch import nn; from jd_plugin_bench import models;"
        "models.SUBJECTS = {'s': models.Subject('s', lambda: nn.Linear(6, 10), (6,), (4,))};"
        "sys.argv = ['jd', 'bench', '--quick', '--engines', 'autojac'];"
        "from jdframework.cli import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", run], capture_output=True, text=True, timeout=120, check=False
    )
    assert "autojac" in ended.stdout
    assert "profiler" not in ended.stderr
    assert "USDT" not in ended.stderr


def test_an_engine_that_refuses_a_model_is_shown_with_its_reason(
    bench: Bench, refusing: None
) -> None:
    status, out, _ = bench("--quick", "--models", "small", "--engines", "refusing,autojac")
    assert status == 0
    assert "refused" in out
    assert "the model is too small; use a larger one" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--models", "huge"), "no model is called 'huge': there are small, norm"),
        (("--engines", "autograd"), "autogram"),
        (("--method", "upgrda"), "did you mean 'upgrad'"),
        (("--device", "moon"), "device = 'moon' cannot be used here"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    bench: Bench, arguments: tuple[str, ...], complaint: str
) -> None:
    status, _, err = bench("--quick", *arguments)
    assert status == 1
    assert complaint in err
