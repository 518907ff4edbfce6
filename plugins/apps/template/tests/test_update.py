"""``jd update``: the template's later changes come in, the author's own stay."""

from __future__ import annotations

import subprocess
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest

import jdframework
from jdframework import JDError

from jd_plugin_template import library, plugin

OLD = "0.0.9"
OLD_WORKFLOW = 'run: pip install --editable ".[test]"'


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Author")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "author@localhost")


@pytest.fixture
def old_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of an older release with an older template, where pip finds it."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = shelf / f"jd_plugin_template-{OLD}-py3-none-any.whl"
    template = Path(str(files("jd_plugin_template") / "template"))
    info = f"jd_plugin_template-{OLD}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in sorted(p for p in template.rglob("*") if p.is_file()):
            text = path.read_text("utf-8")
            if path.name == "test.yml.jinja":
                text = text.replace('".[test,check]"', '".[test]"').replace(
                    "      - run: pyright\n", ""
                )
            archive.writestr(f"jd_plugin_template/template/{path.relative_to(template)}", text)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: jd-plugin-template\nVersion: {OLD}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return wheel


@pytest.fixture
def old_plugin(old_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plugin that the older release wrote, committed."""
    library.prepare(OLD)
    with monkeypatch.context() as then:
        then.setattr(plugin, "__version__", OLD)
        then.setattr(library, "RELEASE", OLD)
        then.setattr(library, "prepare", lambda release=OLD: None)
        target = plugin.create("soft-min", "weighting", tmp_path / "work", "Any", "An Author")
    assert OLD_WORKFLOW in (target / ".github/workflows/test.yml").read_text("utf-8")
    git(target, "init", "--quiet")
    commit(target)
    return target


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "so far")


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text("utf-8")
    assert before in text
    path.write_text(text.replace(before, after), "utf-8")


def test_the_templates_changes_come_in_and_the_authors_stay(old_plugin: Path) -> None:
    method = old_plugin / "src/jd_plugin_soft_min/__init__.py"
    method.write_text("'''Mine.'''\n", "utf-8")
    change(old_plugin / "pyproject.toml", 'version = "0.1.0"', 'version = "3.1.4"')
    commit(old_plugin)

    updated = plugin.update(old_plugin)

    assert updated == plugin.Updated(OLD, jdframework.__version__, ())
    workflow = (old_plugin / ".github/workflows/test.yml").read_text("utf-8")
    assert "- run: pyright" in workflow
    metadata = (old_plugin / "pyproject.toml").read_text("utf-8")
    assert 'version = "3.1.4"' in metadata
    assert f'"jdframework>={jdframework.__version__},<' in metadata
    assert f"<{OLD}" not in metadata
    assert method.read_text("utf-8") == "'''Mine.'''\n"
    assert f"_commit: {jdframework.__version__}" in (old_plugin / plugin.ANSWERS).read_text("utf-8")


def test_what_both_changed_is_marked_and_named(old_plugin: Path) -> None:
    workflow = old_plugin / ".github/workflows/test.yml"
    change(workflow, OLD_WORKFLOW, 'run: pip install --editable ".[test,mine]"')
    commit(old_plugin)
    assert plugin.update(old_plugin).conflicts == (".github/workflows/test.yml",)
    text = workflow.read_text("utf-8")
    assert "<<<<<<<" in text
    assert '".[test,mine]"' in text
    assert '".[test,check]"' in text


def test_an_up_to_date_plugin_stays_as_it_is(tmp_path: Path) -> None:
    target = plugin.create("soft-min", "weighting", tmp_path / "work", "Any", "An Author")
    git(target, "init", "--quiet")
    commit(target)
    plugin.update(target)
    assert git(target, "status", "--porcelain") == ""


def test_on_another_machine_the_old_template_is_downloaded(
    old_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "another"))
    assert plugin.update(old_plugin).before == OLD


def test_a_release_that_cannot_be_had_is_said(
    old_plugin: Path, old_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "another"))
    old_release.unlink()
    with pytest.raises(JDError, match=f"made by jd-plugin-template {OLD}.*pip cannot download"):
        plugin.update(old_plugin)


def test_uncommitted_changes_are_refused(old_plugin: Path) -> None:
    (old_plugin / "README.md").write_text("new", "utf-8")
    with pytest.raises(JDError, match="has uncommitted changes: commit them"):
        plugin.update(old_plugin)


def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    target = plugin.create("soft-min", "weighting", tmp_path / "work", "Any", "An Author")
    with pytest.raises(JDError, match="is not in a git repository"):
        plugin.update(target)


def test_a_folder_that_jd_new_did_not_make_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JDError, match="was not made by jd new"):
        plugin.update(tmp_path)
