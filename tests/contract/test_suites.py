"""How a suite reads its spec, which overrides it refuses, and what it derives from a schema."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field
from torch import Tensor

import jdframework as jd
from jdframework.bases import GramianWeighting
from jdframework.config import Config, Spec, Vector
from jdframework.testing import (
    ARCHITECTURES,
    FAMILIES,
    AggregatorSuite,
    EngineSuite,
    WeightingSuite,
    derived_suite,
)


class PowersConfig(Config):
    """Settings of every type that a suite may have to find a value for."""

    powers: Vector = Field(description="One exponent per objective.")
    inner: Spec = Field(description="Another weighting.", examples=["mean"])
    steps: int = Field(ge=4, description="How often.")
    share: float = Field(gt=0.0, lt=1.0, description="How much.")
    sure: bool = Field(description="Whether.")


class Powers(GramianWeighting):
    """Takes many settings."""

    Config = PowersConfig

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.new_tensor(self.config.powers)


class Opaque(Config):
    """A setting from whose schema no value follows."""

    table: dict[str, int] = Field(description="Any table.")


class NeedsATable(GramianWeighting):
    """Takes a table."""

    Config = Opaque

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.new_ones(len(gramian))


class Outcomes:
    """A pytest plugin that keeps what failed and what passed."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.passed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failures.append(report.longreprtext)
        elif report.passed and report.when == "call":
            self.passed.append(report.nodeid)


def test_an_override_of_a_suites_test_is_refused() -> None:
    with pytest.raises(TypeError, match="Mine overrides WeightingSuite") as error:

        class Mine(WeightingSuite):
            def test_a_wrong_shape_is_refused(self) -> None:
                pass

    assert "test_a_wrong_shape_is_refused" in str(error.value)
    assert "xfail" in str(error.value)


def test_an_inherited_override_is_refused() -> None:
    class Passing:
        def test_settings_are_frozen(self) -> None:
            pass

    with pytest.raises(TypeError, match="test_settings_are_frozen"):

        class Mine(Passing, WeightingSuite):
            pass


def test_a_test_that_is_replaced_by_none_is_refused() -> None:
    with pytest.raises(TypeError, match="test_reset_forgets_every_step"):
        type("Mine", (WeightingSuite,), {"test_reset_forgets_every_step": None})


@pytest.mark.parametrize("fixture", ["family", "architecture"])
def test_fewer_cases_are_refused(fixture: str) -> None:
    suite = WeightingSuite if fixture == "family" else EngineSuite
    with pytest.raises(TypeError, match=fixture):
        type("Mine", (suite,), {fixture: pytest.fixture(lambda self: None)})


def test_a_suite_that_hides_itself_is_refused() -> None:
    with pytest.raises(TypeError, match="__test__ = False"):
        type("Mine", (WeightingSuite,), {"__test__": False})


@pytest.mark.parametrize("reason", [{}, {"reason": ""}, {"reason": "  "}])
def test_xfail_without_a_reason_is_refused(reason: dict[str, str]) -> None:
    override = pytest.mark.xfail(**reason)(lambda self: None)
    with pytest.raises(TypeError, match="test_settings_survive_json"):
        type("Mine", (WeightingSuite,), {"test_settings_survive_json": override})


@pytest.mark.parametrize("condition", [False, "False"])
def test_xfail_on_a_condition_or_without_a_run_is_refused(condition: object) -> None:
    marks = (
        pytest.mark.xfail(condition, reason="never"),
        pytest.mark.xfail(condition=condition, reason="never"),
        pytest.mark.xfail(run=False, reason="not even tried"),
    )
    for mark in marks:
        with pytest.raises(TypeError, match="test_settings_survive_json"):
            type("Mine", (WeightingSuite,), {"test_settings_survive_json": mark(lambda self: None)})


def test_xfail_with_a_reason_is_allowed_and_inherited() -> None:
    class Mine(WeightingSuite):
        @pytest.mark.xfail(reason="the paper's scale depends on the losses")
        def test_scaling_the_jacobian_does_what_is_claimed(self, family: object) -> None:
            pass

    class Another(Mine):
        pass


def test_own_tests_are_welcome() -> None:
    class Mine(WeightingSuite):
        def test_my_own_promise(self) -> None:
            pass


@pytest.mark.parametrize(
    "spec", ["constant", {"name": "constant"}, {"name": "CONSTANT", "weights": [9.0]}]
)
def test_a_spec_and_its_settings_make_an_instance(spec: Any) -> None:
    class Mine(WeightingSuite):
        config: ClassVar[Mapping[str, Any]] = {"weights": [1.0, 2.0]}

    Mine.spec = spec
    assert Mine().make().config.weights == (1.0, 2.0)
    assert Mine().make(weights=[3.0]).config.weights == (3.0,)


def test_a_class_makes_an_instance() -> None:
    class Mine(WeightingSuite):
        spec = Powers
        config: ClassVar[Mapping[str, Any]] = {
            "powers": [1.0],
            "inner": "mean",
            "steps": 4,
            "share": 0.5,
            "sure": True,
        }

    assert isinstance(Mine().make(), Powers)


def test_a_weightings_name_is_an_aggregator_too() -> None:
    class Mine(AggregatorSuite):
        spec = "mean"

    assert Mine().make().kind == "aggregator"
    assert Mine().implementation().kind == "weighting"


def test_a_missing_spec_is_explained() -> None:
    class Mine(WeightingSuite):
        pass

    with pytest.raises(TypeError, match="Mine needs the class attribute spec"):
        Mine().make()


def test_a_seed_is_given_to_methods_that_take_one() -> None:
    class Mine(WeightingSuite):
        spec = "random"

    assert Mine().make().config.seed == 0
    assert Mine().make(seed=None).config.seed is None


def test_settings_are_derived_from_the_schema() -> None:
    jd.register("weighting", "powers")(Powers)
    try:
        suite = derived_suite("weighting", "powers")
    finally:
        jd.unregister("weighting", "powers")
    assert suite.config == {
        "powers": [0.5, 1.0, 1.5],
        "inner": "mean",
        "steps": 4,
        "share": 0.5,
        "sure": False,
    }
    assert suite.objectives == (3,)
    assert not suite.permutation_equivariant


def test_a_setting_that_cannot_be_derived_is_named() -> None:
    jd.register("weighting", "needs-a-table")(NeedsATable)
    try:
        with pytest.raises(
            LookupError, match=r"needs-a-table: no value for the required .*'table'"
        ):
            derived_suite("weighting", "needs-a-table")
        suite = derived_suite("weighting", "needs-a-table", config={"table": {"a": 1}})
    finally:
        jd.unregister("weighting", "needs-a-table")
    assert suite.config == {"table": {"a": 1}}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_the_same_every_time(name: str) -> None:
    first, again, other = FAMILIES[name](3), FAMILIES[name](3), FAMILIES[name](3, seed=1)
    assert first.equal(again)
    assert len(first) == 3
    assert name in ("all zero", "no column") or not first.equal(other)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_is_the_same_every_time(name: str) -> None:
    architecture = ARCHITECTURES[name]
    first, again = (architecture.losses(architecture.model()) for _ in range(2))
    assert first.equal(again)
    assert first.shape == (3,)
    assert first.requires_grad


def test_a_spec_that_does_not_resolve_fails_once(tmp_path: Path) -> None:
    (tmp_path / "test_misspelt.py").write_text(
        "from jdframework.testing import WeightingSuite\n"
        "class TestMisspelt(WeightingSuite):\n"
        "    spec = 'upgrd'\n",
        "utf-8",
    )
    outcomes = Outcomes()
    options = ["--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:terminal"]
    pytest.main([str(tmp_path), *options, "-c", os.devnull], plugins=[outcomes])
    assert len(outcomes.failures) == 1
    assert "no weighting is called 'upgrd': did you mean 'upgrad'" in outcomes.failures[0]
    assert not outcomes.passed


@pytest.mark.parametrize("package", ["pytest", "hypothesis"])
def test_the_kit_says_what_it_misses(package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\nfrom jdframework.testing import EngineSuite"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    last = found.stderr.strip().splitlines()[-1]
    assert last == (
        f"ModuleNotFoundError: jdframework.testing needs {package}, which is not installed: "
        f"pip install 'jdframework[testing]'"
    )
