"""``jd new``: a folder that is complete, or a sentence that says why there is none."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

import jdframework
from jdframework import ConfigError, JDError, NameConflictError
from jdframework.protocols.names import KINDS, Kind

from jd_plugin_template import plugin

FILES = {
    ".copier-answers.yml",
    ".github/workflows/test.yml",
    ".gitignore",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "src/jd_plugin_soft_min/__init__.py",
    "src/jd_plugin_soft_min/py.typed",
    "tests/test_soft_min.py",
}


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def create(name: str, into: Path, kind: Kind = "weighting", summary: str = "Any") -> Path:
    return plugin.create(name, kind, into, summary, "An Author")


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_a_release_needs_is_written(tmp_path: Path, kind: Kind) -> None:
    target = create("soft-min", tmp_path / "work", kind)
    assert target == tmp_path / "work" / "jd-plugin-soft-min"
    written = {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()}
    assert written == FILES
    assert "{{" not in "".join(
        (target / name).read_text("utf-8") for name in FILES - {".github/workflows/test.yml"}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_metadata_names_the_class_and_the_kernels_it_is_for(tmp_path: Path, kind: Kind) -> None:
    target = create("soft-min", tmp_path, kind, 'It\'s "soft" — très')
    project = tomllib.loads((target / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == "jd-plugin-soft-min"
    assert project["description"] == 'It\'s "soft" — très'
    assert project["authors"] == [{"name": "An Author"}]
    assert project["entry-points"] == {
        f"jdframework.{kind}s": {"soft-min": "jd_plugin_soft_min:SoftMin"}
    }
    kernel = Version(jdframework.__version__)
    wanted = f"jdframework>={kernel},<{kernel.major}.{kernel.minor + 1}"
    assert wanted in project["dependencies"]
    assert "class SoftMin(" in (target / "src/jd_plugin_soft_min/__init__.py").read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Soft_Min", "try 'soft-min'"),
        ("soft min!", "try 'soft-min'"),
        ("jd-plugin-soft-min", "try 'soft-min'"),
        ("2nd", "begins with a letter"),
        ("", "begins with a letter"),
        ("../up", "try 'up'"),
        ("été", "try 't'"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_with_one_that_can(
    tmp_path: Path, name: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=hint):
        create(name, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_name_that_another_plugin_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NameConflictError, match="offered by jd-plugin-upgrad already"):
        create("upgrad", tmp_path)
    assert create("upgrad", tmp_path, "scalarizer").exists()


def test_a_name_that_is_published_but_not_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JD_DISABLE_PLUGINS", "mgda")
    with pytest.raises(NameConflictError, match="published as jd-plugin-mgda already"):
        create("mgda", tmp_path)


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    target = create("soft-min", tmp_path)
    method = target / "src/jd_plugin_soft_min/__init__.py"
    method.write_text("mine", "utf-8")
    with pytest.raises(JDError, match="exists already, and jd new never overwrites"):
        create("soft-min", tmp_path)
    assert method.read_text("utf-8") == "mine"
    (tmp_path / "jd-plugin-other").write_text("a file", "utf-8")
    with pytest.raises(JDError, match="exists already"):
        create("other", tmp_path)


def test_without_git_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JDError, match="need git, which is not installed"):
        create("soft-min", tmp_path / "work")


def test_the_author_is_gits_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "user.name")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "Ada Lovelace")
    target = plugin.create("soft-min", "weighting", tmp_path, "Any")
    assert "Ada Lovelace" in (target / "LICENSE").read_text("utf-8")


def test_the_command_prints_what_was_written_and_what_comes_next(tmp_path: Path) -> None:
    jd = [sys.executable, "-c", "from jdframework.cli import main; main()"]
    done = subprocess.run(
        [*jd, "new", "soft-min", "--kind", "scalarizer", "--into", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "  src/jd_plugin_soft_min/__init__.py" in done.stdout
    assert "jd check soft-min" in done.stdout
    again = subprocess.run(
        [*jd, "new", "soft-min", "--kind", "scalarizer", "--into", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 1
    assert "never overwrites" in again.stderr
    assert (
        subprocess.run([*jd, "new", "soft-min"], capture_output=True, check=False).returncode == 2
    )
