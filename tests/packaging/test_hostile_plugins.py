"""What a broken, clashing, blocked or stale distribution does to the others: nothing.

Real distributions, built and installed by pip into one environment of their own.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from . import distributions
from .environments import Environment, pip

BROKEN = "raise OSError('libmissing.so: cannot open shared object file')"
NEEDING = "import a_package_that_nobody_has\n" + distributions.WEIGHTING.format(weight=1.0)
MADE_FOR_ANOTHER = ("jdframework>=7.1,<8",)

RESOLVES = """
import sys, jdframework as jd
try:
    print(jd.weighting(sys.argv[1])(__import__("torch").eye(2)).tolist())
except jd.JDError as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of the distributions; that of ``editable`` stays in use."""
    return tmp_path_factory.mktemp("sources")


@pytest.fixture(scope="module")
def environment(
    sources: Path, wheelhouse: Path, third_party: Path, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """Everything that can go wrong, installed beside a plugin that is sound."""
    environment = Environment(tmp_path_factory.mktemp("hostile") / "environment", third_party)
    environment.install(wheelhouse, "--no-deps", "jdframework", "jd-plugin-mean")
    built = tmp_path_factory.mktemp("built")
    made = [
        distributions.weighting(sources, "jd-plugin-broken", "broken", code=BROKEN),
        distributions.weighting(sources, "jd-plugin-needing", "needing", code=NEEDING),
        distributions.weighting(sources, "jd-plugin-clash", "twice"),
        distributions.weighting(sources, "rival-clash", "Twice"),
        distributions.weighting(sources, "jd-plugin-gone", "gone"),
        distributions.weighting(
            sources, "jd-plugin-foreign", "foreign", dependencies=MADE_FOR_ANOTHER
        ),
    ]
    wheels = [str(distributions.build(source, built)) for source in made]
    environment.install(built, "--no-deps", *wheels)
    (environment.packages / "jd_plugin_gone.py").unlink()
    install_editable(environment, distributions.weighting(sources, "jd-plugin-live", "live"))
    return environment


def install_editable(environment: Environment, source: Path) -> None:
    where = f"--python={environment.python}"
    how = ["--no-build-isolation", "--no-deps", "--no-index", "--no-compile"]
    pip(where, "install", *how, "--editable", str(source))


def resolved(environment: Environment, name: str, folder: Path) -> str:
    """What resolving ``name`` prints: weights, or the error."""
    return succeeded(environment.run("-c", RESOLVES, name, folder=folder))


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def jd(environment: Environment, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return environment.run(environment.python.with_name("jd"), *arguments, folder=folder)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "broken",
            (
                "PluginLoadError: the weighting 'broken' of jd-plugin-broken 1.0 cannot be "
                "imported (OSError: libmissing.so: cannot open shared object file): "
                "reinstall or remove that distribution"
            ),
        ),
        (
            "needing",
            (
                "PluginLoadError: the weighting 'needing' of jd-plugin-needing 1.0 cannot be "
                "imported (ModuleNotFoundError: No module named 'a_package_that_nobody_has'): "
                "it needs the package 'a_package_that_nobody_has', which is not installed"
            ),
        ),
        (
            "twice",
            (
                "NameConflictError: the weighting 'twice' is offered by jd-plugin-clash and by "
                "rival-clash: uninstall one of them, or block one with "
                "JD_DISABLE_PLUGINS=jd-plugin-clash"
            ),
        ),
        (
            "gone",
            (
                "PluginLoadError: the weighting 'gone' of jd-plugin-gone 1.0 cannot be imported "
                "(ModuleNotFoundError: No module named 'jd_plugin_gone'): what is installed is not "
                "what its metadata says, as after an editable install whose entry points changed: "
                "pip install --force-reinstall jd-plugin-gone"
            ),
        ),
        (
            "foreign",
            (
                "PluginLoadError: the weighting 'foreign' of jd-plugin-foreign 1.0 was made for "
                "jdframework<8,>=7.1, but jdframework 0.1.0 is installed: "
                "pip install --upgrade jdframework jd-plugin-foreign"
            ),
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    environment: Environment, tmp_path: Path, name: str, sentence: str
) -> None:
    assert resolved(environment, name, tmp_path) == sentence


def test_the_sound_plugin_keeps_working(environment: Environment, tmp_path: Path) -> None:
    assert resolved(environment, "mean", tmp_path) == "[0.5, 0.5]"


def test_listing_names_them_all_and_imports_none(environment: Environment, tmp_path: Path) -> None:
    listed = succeeded(jd(environment, "list", "--json", folder=tmp_path))
    names = {entry["name"] for entry in json.loads(listed)}
    assert {"broken", "foreign", "gone", "live", "mean", "needing", "twice"} <= names


def test_the_doctor_finds_each_of_them(environment: Environment, tmp_path: Path) -> None:
    done = jd(environment, "doctor", "--json", folder=tmp_path)
    found = {finding["name"]: finding["status"] for finding in json.loads(done.stdout)["plugins"]}
    assert done.returncode == 1
    assert {
        name: found[name] for name in ("broken", "needing", "gone", "foreign", "live", "mean")
    } == {
        "broken": "broken",
        "needing": "broken",
        "gone": "broken",
        "foreign": "broken",
        "live": "ok",
        "mean": "ok",
    }
    assert found["twice"] == "clash"


def test_blocking_one_of_two_gives_the_name_to_the_other(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JD_DISABLE_PLUGINS", "rival-clash, mean")
    assert resolved(environment, "twice", tmp_path) == "[1.0, 1.0]"
    assert resolved(environment, "mean", tmp_path).startswith("BlockedNameError")


def test_an_editable_plugin_follows_its_source(
    environment: Environment, sources: Path, tmp_path: Path
) -> None:
    assert resolved(environment, "live", tmp_path) == "[1.0, 1.0]"
    module = sources / "jd-plugin-live" / "jd_plugin_live.py"
    before = module.read_text("utf-8")
    module.write_text(distributions.WEIGHTING.format(weight=7.0), "utf-8")
    assert resolved(environment, "live", tmp_path) == "[7.0, 7.0]"
    module.write_text(before.replace("class Method", "class Renamed"), "utf-8")
    assert "pip install --force-reinstall jd-plugin-live" in resolved(environment, "live", tmp_path)
    module.write_text(before, "utf-8")
