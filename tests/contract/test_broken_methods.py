"""The suites have teeth: each test of theirs catches a method that breaks its promise."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import jdframework as jd
from jdframework.testing import AggregatorSuite, EngineSuite, ScalarizerSuite, WeightingSuite

FOLDER = Path(__file__).parent / "broken"
SUITES = (WeightingSuite, AggregatorSuite, ScalarizerSuite, EngineSuite)
BROKEN = sorted(
    f"{file.name}::{name}"
    for file in FOLDER.glob("*.py")
    for name in re.findall(r"^class (Test\w+)", file.read_text("utf-8"), re.MULTILINE)
)


class Bites:
    """A pytest plugin that runs, of each broken method's suite, the tests that must catch it."""

    def __init__(self) -> None:
        self.suites: dict[str, Any] = {}
        self.caught: set[tuple[str, str]] = set()

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for item in items:
            self.suites[f"{item.path.name}::{item.cls.__name__}"] = item.cls
        items[:] = [item for item in items if item.originalname in item.cls.caught_by]

    def pytest_runtest_setup(self, item: Any) -> None:
        if (f"{item.path.name}::{item.cls.__name__}", item.originalname) in self.caught:
            pytest.skip("caught already")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        if not hasattr(item.cls, "registers"):
            return (yield)
        jd.register("weighting", item.cls.spec)(item.cls.registers)
        try:
            return (yield)
        finally:
            jd.unregister("weighting", item.cls.spec)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.when == "call":
            path, name, test = report.nodeid.split("[")[0].rsplit("::", 2)
            self.caught.add((f"{Path(path).name}::{name}", test))


@pytest.fixture(scope="module")
def bites() -> Bites:
    plugin = Bites()
    options = ["--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:terminal"]
    files = ["-c", os.devnull, "-o", "python_files=*/broken/*.py"]
    pytest.main([str(FOLDER), *options, *files], plugins=[plugin])
    return plugin


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_method_is_caught(bites: Bites, name: str) -> None:
    suite = bites.suites[name]
    missed = [test for test in suite.caught_by if (name, test) not in bites.caught]
    assert suite.caught_by
    assert not missed, f"{name} slipped through {', '.join(missed)}"


def test_each_test_of_the_suites_catches_something(bites: Bites) -> None:
    catching = {_home(bites.suites[name], test) for name, test in bites.caught}
    promised = {
        _home(suite, test) for suite in SUITES for test in dir(suite) if test.startswith("test_")
    }
    idle = sorted(f"{suite}.{test}" for suite, test in promised - catching)
    assert not idle, f"no broken method shows that these tests can fail: {', '.join(idle)}"


def _home(suite: type, test: str) -> tuple[str, str]:
    """In which class of the kit a test is defined."""
    kit = (cls for cls in suite.__mro__ if cls.__module__.startswith("jdframework.testing."))
    return next(cls.__name__ for cls in kit if test in vars(cls)), test
