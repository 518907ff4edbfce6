"""An environment of a test sees what was installed into it, and no source tree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .environments import Environment

IMPORTS_MGDA = """
import importlib.util
assert importlib.util.find_spec("jd_plugin_mgda") is None
"""

RESOLVES_MGDA = """
import jdframework as jd
assert jd.available() == ["upgrad"], jd.available()
try:
    jd.weighting("mgda")
except jd.UnknownNameError as error:
    assert "pip install jd-plugin-mgda" in str(error), error
else:
    raise AssertionError("mgda is not installed, but resolved")
"""

TRAINS_WITH_UPGRAD = """
import torch, jdframework as jd
assert jd.available() == ["autojac", "upgrad"], jd.available()
model = torch.nn.Linear(3, 2)
step = jd.Descent(model, "upgrad").backward(model(torch.ones(3)))
assert step.engine == "autojac" and model.weight.grad is not None
"""

TRAINS_WITH_UW = """
import torch, jdframework as jd
assert jd.available() == ["uw"], jd.available()
model = torch.nn.Linear(3, 2)
jd.Descent(model, "uw", shape=2).backward(model(torch.ones(3)).square())
assert model.weight.grad is not None
"""


def check(environment: Environment, code: str, folder: Path) -> None:
    done = environment.run("-c", code, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_source_trees_are_out_of_reach(
    new_environment: Callable[[], Environment], tmp_path: Path
) -> None:
    done = new_environment().run("-c", "import jdframework", folder=tmp_path)
    assert "No module named 'jdframework'" in done.stderr


def test_another_plugins_name_does_not_resolve(
    wheelhouse: Path, new_environment: Callable[[], Environment], tmp_path: Path
) -> None:
    environment = new_environment()
    environment.install(wheelhouse, "--no-deps", "jdframework", "jd-plugin-upgrad")
    check(environment, IMPORTS_MGDA + RESOLVES_MGDA, tmp_path)


@pytest.mark.parametrize(
    ("distribution", "code"),
    [("jd-plugin-upgrad", TRAINS_WITH_UPGRAD), ("jd-plugin-uw", TRAINS_WITH_UW)],
    ids=["weighting", "scalarizer"],
)
def test_installing_a_method_brings_what_training_with_it_needs(
    distribution: str,
    code: str,
    wheelhouse: Path,
    new_environment: Callable[[], Environment],
    tmp_path: Path,
) -> None:
    environment = new_environment()
    environment.install(wheelhouse, distribution)
    check(environment, code, tmp_path)
