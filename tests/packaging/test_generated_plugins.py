"""What ``jd new`` writes works as it is: tests, conformance, types, style, wheel.

Written by the installed application, into an environment that holds nothing else of this repository
than the kernel and the default engine.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jdframework.protocols.names import KINDS, Kind

from . import distributions
from .environments import Environment

TYPED = Path(__file__).with_name("author.py.txt")
"""Everything that an author and a user write with the public names; no module, as it registers."""


@pytest.fixture(scope="module")
def environment(
    wheelhouse: Path, third_party: Path, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """An environment with the kernel, the default engine, and what writes a plugin."""
    environment = Environment(tmp_path_factory.mktemp("generated") / "environment", third_party)
    engines = ["jd-plugin-autojac", "jd-plugin-autogram"]
    ours = ["jdframework", *engines, "jd-plugin-template"]
    environment.install(wheelhouse, "--no-deps", *ours)
    return environment


@pytest.fixture(scope="module")
def generated(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plugin of each kind, installed as wheels."""
    folder = tmp_path_factory.mktemp("plugins")
    built = tmp_path_factory.mktemp("built")
    for kind in KINDS:
        done = environment.run(
            *(environment.python.with_name("jd"), "new", f"my-{kind}", "--kind", kind),
            *("--summary", "Something new", "--author", "An Author"),
            folder=folder,
        )
        assert done.returncode == 0, done.stderr
        wheel = distributions.build(plugin(folder, kind), built)
        environment.install(built, "--no-deps", str(wheel))
    return folder


def plugin(folder: Path, kind: Kind) -> Path:
    return folder / f"jd-plugin-my-{kind}"


@pytest.mark.parametrize("kind", KINDS)
def test_its_tests_pass_at_once(environment: Environment, generated: Path, kind: Kind) -> None:
    # "src" would be imported beside the installed wheel; an author has an editable install.
    pytest_ = ("-m", "pytest", "--quiet", "-p", "no:cacheprovider", "tests")
    done = environment.run(*pytest_, folder=plugin(generated, kind))
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_it_conforms(environment: Environment, generated: Path, kind: Kind) -> None:
    jd = environment.python.with_name("jd")
    done = environment.run(jd, "check", f"my-{kind}", folder=generated)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout


def checked(*command: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_mypy_strict_finds_nothing(environment: Environment, generated: Path) -> None:
    folders = [str(plugin(generated, kind) / part) for kind in KINDS for part in ("src", "tests")]
    folders.append(str(shutil.copy(TYPED, generated / "author.py")))
    how = (f"--python-executable={environment.python}", "--strict", "--cache-dir=.mypy_cache")
    checked("mypy", *how, *folders, folder=generated)


@pytest.mark.slow
def test_pyright_strict_finds_nothing(environment: Environment, generated: Path) -> None:
    shutil.copy(TYPED, generated / "author.py")
    settings = {"typeCheckingMode": "strict", "include": ["author.py", "*/src", "*/tests"]}
    (generated / "pyrightconfig.json").write_text(json.dumps(settings), "utf-8")
    checked("pyright", f"--pythonpath={environment.python}", folder=generated)


@pytest.mark.parametrize("kind", KINDS)
def test_its_style_is_clean(generated: Path, kind: Kind) -> None:
    checked("ruff", "check", "--no-cache", ".", folder=plugin(generated, kind))
    checked("ruff", "format", "--check", "--no-cache", ".", folder=plugin(generated, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_it_imports_public_names_alone(generated: Path, kind: Kind) -> None:
    public = {
        *("jdframework", "jdframework.bases", "jdframework.config"),
        *("jdframework.testing", "jdframework.errors"),
    }
    lines = [
        line.split()[1]
        for path in plugin(generated, kind).rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if line.startswith(("import jdframework", "from jdframework"))
    ]
    assert lines
    assert set(lines) <= public
