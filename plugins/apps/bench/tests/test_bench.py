"""``jd bench``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from jd_plugin_bench import models

from .conftest import Command
from .fabrication import Site

REFUSING = """
from jd_plugin_autojac import Autojac

class Fabricated(Autojac):
    '''Serves nothing that is small.'''

    @classmethod
    def refusal(cls, modules, config):
        return "the model is too small; use a larger one"
"""


@pytest.fixture(autouse=True)
def _small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real ones take minutes."""
    small = models.Subject("small", lambda: nn.Linear(6, models.CLASSES), (6,), (4, 8))
    norm = models.Subject("norm", lambda: nn.Sequential(nn.LayerNorm(6), small.model()), (6,), (4,))
    monkeypatch.setattr(models, "SUBJECTS", {"small": small, "norm": norm})


def test_each_engine_is_compared_with_an_ordinary_step(jd: Command) -> None:
    ended = jd("bench", "--json", "--engines", "autojac")
    assert ended.status == 0
    figures = json.loads(ended.out)
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


def test_the_table_says_what_its_figures_are(jd: Command, tmp_path: Path) -> None:
    out = tmp_path / "new" / "figures.json"
    ended = jd("bench", "--quick", "--models", "norm", "--method", "upgrad", "--out", str(out))
    assert ended.status == 0
    assert ended.out.splitlines()[0].split() == [
        *("model", "batch", "plain,", "ms", "engine", "time", "memory")
    ]
    assert "in ordinary steps" in ended.out
    assert json.loads(out.read_text("utf-8"))["method"] == "upgrad"


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


def test_an_engine_that_refuses_a_model_is_shown_with_its_reason(jd: Command, site: Site) -> None:
    site.engine("jd-plugin-refusing", "refusing", REFUSING)
    ended = jd("bench", "--quick", "--models", "small", "--engines", "refusing,autojac")
    assert ended.status == 0
    assert "refused" in ended.out
    assert "the model is too small; use a larger one" in ended.out


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
    jd: Command, arguments: tuple[str, ...], complaint: str
) -> None:
    ended = jd("bench", "--quick", *arguments)
    assert ended.status == 1
    assert complaint in ended.err
