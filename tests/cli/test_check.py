"""``jd check``."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from .conftest import Command
from .fabrication import Site

LAZY = """
import torch
from jdframework.bases import GramianWeighting

class Fabricated(GramianWeighting):
    '''Gives every objective the weight 1, and every call a little more.'''

    def __init__(self, **config):
        super().__init__(**config)
        self.calls = 0

    def forward(self, gramian):
        self.calls += 1
        return torch.full((len(gramian),), float(self.calls))
"""

REQUIRING = """
from pydantic import Field
from jdframework.bases import Scalarizer
from jdframework.config import Config

class Settings(Config):
    plan: dict[str, float] = Field(description="What to do.")

class Fabricated(Scalarizer):
    '''Needs a setting that no schema tells.'''

    Config = Settings

    def forward(self, losses):
        return losses.sum() * self.config.plan["all"]
"""


def reports(jd: Command, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(jd("check", "--json", *arguments).out)
    return found


def test_a_sound_plugin_passes_with_status_0(jd: Command) -> None:
    ended = jd("check", "imtl-l")
    assert ended.status == 0
    assert "imtl-l  scalarizer  jd-plugin-imtl-l" in ended.out
    assert "passed          Losses of each shape give one finite value of shape []" in ended.out
    assert "0 failed" in ended.out


def test_a_weighting_is_checked_as_the_aggregator_that_is_made_of_it_too(jd: Command) -> None:
    found = reports(jd, "mean")
    assert [report["kind"] for report in found] == ["weighting", "aggregator", "scalarizer"]
    assert all(report["passed"] for report in found)
    assert [r["kind"] for r in reports(jd, "mean", "--kind", "scalarizer")] == ["scalarizer"]


def test_a_failing_test_says_what_is_wrong_and_the_status_is_1(jd: Command, site: Site) -> None:
    site.plugin("jd-plugin-lazy", "weighting", "lazy", LAZY)
    ended = jd("check", "lazy", "--kind", "weighting", "--json")
    assert ended.status == 1
    (report,) = json.loads(ended.out)
    failed = {f["test"]: f["reason"] for f in report["findings"] if f["verdict"] == "failed"}
    assert (
        "state_dict() into a fresh instance does not go on"
        in (failed["test_a_saved_state_resumes_exactly"])
    )
    assert not report["passed"]
    page = jd("check", "lazy", "--kind", "weighting").out
    assert "some state is not in state_dict()" in page


def test_a_setting_that_no_schema_tells_is_asked_for_and_taken(jd: Command, site: Site) -> None:
    site.plugin("jd-plugin-requiring", "scalarizer", "requiring", REQUIRING)
    without = jd("check", "requiring")
    assert without.status == 1
    assert "no value for the required setting 'plan'" in without.out
    assert jd("check", "requiring", "--config", '{"plan": {"all": 2.0}}').status == 0


def test_many_names_give_one_line_each(jd: Command) -> None:
    ended = jd("check", "mean", "sum", "uw")
    assert ended.status == 0
    assert ended.out.splitlines()[0].split() == [
        *("name", "kind", "passed", "failed"),
        *("not", "applicable", "seconds"),
    ]
    assert ended.out.count("\nsum ") == 3
    assert "all 7 conform." in ended.out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "give one or more names, or --all"),
        (("uw", "--all"), "give one or more names, or --all"),
        (("upgrda",), "did you mean 'upgrad'"),
        (("upgrad", "--kind", "engine"), "'upgrad' is a weighting, not an engine"),
        (("constant", "--config", "[1"), "--config is not JSON"),
        (("constant", "--config", "[1]"), "--config needs an object"),
    ],
)
def test_what_cannot_be_checked_is_refused(
    jd: Command, arguments: tuple[str, ...], complaint: str
) -> None:
    ended = jd("check", *arguments)
    assert ended.status != 0
    assert complaint in ended.err


def test_settings_that_the_method_does_not_take_are_reported(jd: Command) -> None:
    ended = jd("check", "constant", "--kind", "weighting", "--config", '{"weights": "x"}')
    assert ended.status == 1
    assert "not checked: constant: weights = 'x' was given" in ended.out


def test_the_users_pytest_plugins_stay_as_they_were(
    jd: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = "PYTEST_DISABLE_PLUGIN_AUTOLOAD"
    monkeypatch.delenv(variable, raising=False)
    assert jd("check", "imtl-l").status == 0
    assert variable not in os.environ
