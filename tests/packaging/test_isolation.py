"""An environment of a test sees what was installed into it, and no source tree."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import wheelhouse as builder
from plugin_folder import Plugin
from plugin_metadata import folders

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
assert jd.available() == ["autogram", "autojac", "upgrad"], jd.available()
model = torch.nn.Linear(3, 2)
step = jd.Descent(model, "upgrad", engine="autojac").backward(model(torch.ones(3)))
assert step.engine == "autojac" and model.weight.grad is not None
step = jd.Descent(model, "upgrad", batch_dim=0).backward(model(torch.ones(9, 3)).sum(1))
assert step.engine == "autogram"
"""

PRINTS_NAMES = """
import json, jdframework as jd
print(json.dumps(jd.available()))
"""

TRAINS_WITH_UW = """
import torch, jdframework as jd
assert jd.available() == ["uw"], jd.available()
model = torch.nn.Linear(3, 2)
jd.Descent(model, "uw", shape=2).backward(model(torch.ones(3)).square())
assert model.weight.grad is not None
"""


PLUGINS = [Plugin.read(folder) for folder in folders(builder.ROOT)]


@pytest.fixture(scope="module")
def kernel_alone(
    wheelhouse: Path, third_party: Path, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """An environment with the kernel, and no plugin."""
    environment = Environment(tmp_path_factory.mktemp("kernel") / "environment", third_party)
    environment.install(wheelhouse, "--no-deps", "jdframework")
    return environment


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


EXTRAS = tomllib.loads((builder.ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]


@pytest.mark.parametrize("extra", ["recommended", "all"])
def test_one_line_installs_a_useful_set(
    extra: str, wheelhouse: Path, new_environment: Callable[[], Environment], tmp_path: Path
) -> None:
    environment = new_environment()
    environment.install(wheelhouse, f"jdframework[{extra}]")
    done = environment.run("-c", PRINTS_NAMES, folder=tmp_path)
    installed = set(json.loads(done.stdout))
    promised = {Requirement(text).name for text in EXTRAS[extra]}
    by_distribution = {plugin.distribution: plugin.names() for plugin in PLUGINS}
    names = {
        name
        for distribution in promised
        for found in by_distribution[distribution].values()
        for name in found
    }
    assert names <= installed
    if extra == "all":
        assert promised == set(by_distribution)
        assert installed == names
    command = environment.python.with_name("jd")
    done = environment.run(command, "demo", "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "distribution"),
    [(command, plugin.distribution) for plugin in PLUGINS for command in plugin.commands()],
)
def test_the_kernel_alone_says_which_application_a_command_comes_with(
    command: str, distribution: str, kernel_alone: Environment, tmp_path: Path
) -> None:
    done = kernel_alone.run(kernel_alone.python.with_name("jd"), command, folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip().endswith(f"which is not installed: pip install {distribution}")
    assert len(done.stderr.splitlines()) == 1
