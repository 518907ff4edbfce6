"""``jd doctor``."""

from __future__ import annotations

import json
import platform
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import jdframework

from .conftest import Command
from .fabrication import BROKEN, Site

WRONG_ENGINE = """
from jd_plugin_autojac import Autojac

class Fabricated(Autojac):
    '''Has its factors wrong.'''

    def compute_gramian(self, losses, /):
        return 1.001 * super().compute_gramian(losses)
"""

REFUSING_ENGINE = """
from jd_plugin_autojac import Autojac

class Fabricated(Autojac):
    '''Serves nothing that is small.'''

    @classmethod
    def refusal(cls, modules, config):
        return "the model is too small; use a larger one"
"""

RAISING_ENGINE = """
from jd_plugin_autojac import Autojac

class Fabricated(Autojac):
    '''Fails.'''

    def compute_gramian(self, losses, /):
        raise ZeroDivisionError("nothing to divide by")
"""


def examined(ended: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """What was found, by section and name."""
    found = json.loads(ended.out)
    sections = ("plugins", "observers", "engines", "optional")
    return {section: {f["name"]: f for f in found[section]} for section in sections}


def test_a_sound_installation_has_status_0_and_every_plugin_ok(jd: Command) -> None:
    ended = jd("doctor", "--json")
    assert ended.status == 0
    assert json.loads(ended.out)["healthy"] is True
    plugins = examined(ended)["plugins"]
    assert sorted(plugins) == jdframework.available()
    assert {finding["status"] for finding in plugins.values()} == {"ok"}
    assert plugins["upgrad"]["version"] == f"jd-plugin-upgrad {jdframework.__version__}"


def test_the_environment_names_versions_and_devices(jd: Command) -> None:
    environment = json.loads(jd("doctor", "--json").out)["environment"]
    assert environment["jdframework"] == jdframework.__version__
    assert environment["torch"] == torch.__version__
    assert environment["Python"] == f"{platform.python_version()} ({sys.executable})"
    assert environment["devices"][0] == f"CPU ({torch.get_num_threads()} threads)"


def test_accelerators_are_named(jd: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="Fabricated 9000", total_memory=24 * 2**30)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    devices = json.loads(jd("doctor", "--json").out)["environment"]["devices"]
    assert devices[1:] == ["cuda:0 (Fabricated 9000, 24 GiB)", "mps"]


def test_the_page_says_the_same_for_people(jd: Command) -> None:
    out = jd("doctor").out
    for expected in (str(torch.__version__), "jd-plugin-uw", "Engine self-check", "quadprog"):
        assert expected in out
    assert out.endswith("Everything that is installed works.\n")


def test_every_engine_is_checked_against_a_plain_backward_pass(jd: Command) -> None:
    engines = examined(jd("doctor", "--json"))["engines"]
    assert sorted(engines) == jdframework.available("engine")
    assert engines["autojac"]["status"] == "ok"
    assert "relative error" in engines["autojac"]["detail"]


@pytest.mark.parametrize(
    ("code", "state", "reason", "status"),
    [
        (WRONG_ENGINE, "wrong", "relative error", 1),
        (RAISING_ENGINE, "broken", "ZeroDivisionError: nothing to divide by", 1),
        (REFUSING_ENGINE, "not checked", "the model is too small", 0),
    ],
    ids=["wrong", "raising", "refusing"],
)
def test_an_engine_that_fails_its_check_is_reported(
    jd: Command, site: Site, code: str, state: str, reason: str, status: int
) -> None:
    site.engine(f"jd-plugin-{state.replace(' ', '-')}", "fabricated", code)
    ended = jd("doctor", "--json")
    found = examined(ended)["engines"]["fabricated"]
    assert found["status"] == state
    assert reason in found["detail"]
    assert ended.status == status


def test_a_broken_plugin_is_reported_with_the_reason_and_status_1(jd: Command, site: Site) -> None:
    site.weighting("jd-plugin-wreck", "wreck", BROKEN)
    ended = jd("doctor", "--json")
    found = examined(ended)["plugins"]
    assert ended.status == 1
    assert found["wreck"]["status"] == "broken"
    assert "OSError: a library is missing" in found["wreck"]["detail"]
    assert found["upgrad"]["status"] == "ok"
    page = jd("doctor").out
    assert page.endswith("Not usable: wreck.\n")


def test_a_class_that_is_no_method_is_broken(jd: Command, site: Site) -> None:
    site.weighting("jd-plugin-odd", "odd", "class Fabricated: pass")
    found = examined(jd("doctor", "--json"))["plugins"]["odd"]
    assert found["status"] == "broken"
    assert "does not derive from" in found["detail"]


def test_a_clash_is_reported_and_status_1(jd: Command, site: Site) -> None:
    site.weighting("jd-plugin-one", "twice")
    site.weighting("jd-plugin-two", "twice")
    ended = jd("doctor", "--json")
    assert ended.status == 1
    found = [f for f in json.loads(ended.out)["plugins"] if f["name"] == "twice"]
    assert [f["status"] for f in found] == ["clash", "clash"]
    assert "jd-plugin-one and by jd-plugin-two" in found[0]["detail"]


def test_a_blocked_plugin_is_reported_and_nothing_is_wrong(jd: Command, site: Site) -> None:
    site.weighting("jd-plugin-wreck", "wreck", BROKEN)
    ended = jd("doctor", "--json", JD_DISABLE_PLUGINS="wreck")
    assert ended.status == 0
    assert examined(ended)["plugins"]["wreck"]["status"] == "blocked"


def test_a_broken_observer_is_reported(installed_jd: Command, site: Site) -> None:
    site.observer("jd-plugin-watcher", "watcher", BROKEN)
    ended = installed_jd("doctor", "--json")
    assert ended.status == 1
    found = examined(ended)["observers"]["watcher"]
    assert found["status"] == "broken"
    assert found["detail"] == "OSError: a library is missing"


def test_missing_optional_packages_say_how_to_get_them_and_break_nothing(
    jd: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "qpsolvers", None)
    ended = jd("doctor", "--json")
    optional = examined(ended)["optional"]
    assert ended.status == 0
    assert optional["qpsolvers"]["status"] == "missing"
    assert 'pip install "jdframework[solvers]"' in optional["qpsolvers"]["detail"]


def test_the_solvers_that_qpsolvers_finds_are_named(jd: Command) -> None:
    qpsolvers = pytest.importorskip("qpsolvers")
    found = examined(jd("doctor", "--json"))["optional"]["qpsolvers"]
    assert found["version"] == qpsolvers.__version__
    assert found["detail"] == ", ".join(sorted(qpsolvers.available_solvers))
