"""The template's releases, each a commit and a tag of a git repository in the user's cache.

copier updates a plugin by comparing the template it was made from with the present one, and reads
both from such a repository. The present one comes with this distribution. An older one that is not
in the repository, as on another machine, is taken from this distribution's release of that time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from jdframework.errors import JDError

DISTRIBUTION: Final = "jd-plugin-template"
RELEASE: Final = version(DISTRIBUTION)
"""The template's release is the distribution's that it is in."""

PLACE: Final = "~/.cache/jdframework/plugin-template"
"""Where the repository is; the same words on every machine, as each plugin's answers hold them."""

_WITHIN_A_WHEEL: Final = "jd_plugin_template/template/"
_GIT: Final = {
    **{f"GIT_{who}_NAME": "jdframework" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "jdframework@localhost" for who in ("AUTHOR", "COMMITTER")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}
"""The user's own configuration, with its hooks and signatures, is not for this repository."""


def prepare(release: str = RELEASE) -> None:
    """Makes sure that the repository holds one release of the template.

    :param release: The distribution's version; its own template is put there anew.
    :raises JDError: if git is missing, or if the release cannot be had.
    """
    if shutil.which("git") is None:
        raise JDError("jd new and jd update need git, which is not installed")
    repository = Path(PLACE).expanduser()
    if not (repository / ".git").exists():
        repository.mkdir(parents=True, exist_ok=True)
        _git(repository, "init", "--quiet", "--initial-branch=main")
    if release == RELEASE:
        with as_file(files("jd_plugin_template") / "template") as template:
            _commit(repository, template, release)
    elif not _git(repository, "tag", "--list", release):
        with TemporaryDirectory(prefix="jd-template-") as folder:
            _commit(repository, _downloaded(release, Path(folder)), release)


def _commit(repository: Path, template: Path, release: str) -> None:
    """Makes ``template`` the whole content of a commit, and tags it."""
    for entry in repository.iterdir():
        if entry.name != ".git":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(template, repository, dirs_exist_ok=True, ignore=ignored)
    _git(repository, "add", "--all", "--force")
    _git(repository, "commit", "--quiet", "--allow-empty", "--message", release)
    _git(repository, "tag", "--force", release)


def _downloaded(release: str, folder: Path) -> Path:
    """The template of another release, out of that release's wheel."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download"]
    wanted = ["--no-deps", "--only-binary=:all:", f"--dest={folder}", f"{DISTRIBUTION}=={release}"]
    done = subprocess.run(  # noqa: S603  # pip itself, and a version
        [*pip, *wanted], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise JDError(
            f"the plugin was made by {DISTRIBUTION} {release}, whose template is needed to see "
            f"what has changed since, but pip cannot download that release: {reason}"
        )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [n for n in archive.namelist() if n.startswith(_WITHIN_A_WHEEL)])
    return folder / _WITHIN_A_WHEEL


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603
        ["git", *arguments],  # noqa: S607  # the user's own git
        cwd=repository,
        env={**os.environ, **_GIT},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise JDError(f"git {arguments[0]} failed in {repository}: {done.stderr.strip()}")
    return done.stdout.strip()
