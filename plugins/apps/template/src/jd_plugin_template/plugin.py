"""Writes a plugin's folder, and brings it up to date."""

from __future__ import annotations

import datetime
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jdframework import __version__, registry
from jdframework.errors import ConfigError, JDError, NameConflictError
from jdframework.protocols.names import Kind, is_canonical

from jd_plugin_template import library

ANSWERS: Final = ".copier-answers.yml"
PREFIX: Final = "jd-plugin-"


@dataclass(frozen=True)
class Updated:
    """What an update did."""

    before: str
    after: str
    conflicts: tuple[str, ...]
    """The files in which the author's changes and the template's contradict each other."""


def create(name: str, kind: Kind, into: Path, summary: str, author: str | None = None) -> Path:
    """Writes a complete distribution for a new method or engine.

    :param name: Its name, in kebab-case.
    :param kind: What it is.
    :param into: The folder in which its folder ``jd-plugin-<name>`` is made.
    :param summary: What it does, in one line.
    :param author: Who writes it; git's ``user.name`` when None.
    :return: The new folder.
    :raises ConfigError: if the name is not in kebab-case.
    :raises NameConflictError: if the name is taken.
    :raises JDError: if the folder exists already, or git is missing.
    """
    check_name(name, kind)
    target = into.expanduser() / f"{PREFIX}{name}"
    if target.exists():
        raise JDError(f"{target} exists already, and jd new never overwrites: choose another name")
    library.prepare()
    answers = {
        "name": name,
        "kind": kind,
        "summary": summary,
        "author": author or _git_user() or "Your Name",
        "year": datetime.datetime.now(tz=datetime.UTC).year,
        "kernel": __version__,
    }
    with _copier() as copier:
        copier.run_copy(
            library.PLACE,
            target,
            data=answers,
            vcs_ref=library.RELEASE,
            defaults=True,
            quiet=True,
        )
    return target


def update(folder: Path) -> Updated:
    """Brings what has changed in the template since into a plugin's folder.

    The author's own changes stay; where both changed the same lines, conflict markers are left.

    :param folder: The plugin's folder, a git repository without uncommitted changes.
    :raises JDError: if it was not made by ``jd new``, has uncommitted changes, or was made by a
        later release.
    """
    before = _release_of(folder)
    library.prepare(before)
    library.prepare()
    with _copier() as copier:
        copier.run_update(
            folder,
            data={"kernel": __version__},
            vcs_ref=library.RELEASE,
            defaults=True,
            overwrite=True,
            quiet=True,
        )
    return Updated(before, library.RELEASE, tuple(_conflicts(folder)))


def check_name(name: str, kind: Kind) -> None:
    """Refuses a name that no plugin may have, or that another one has.

    :raises ConfigError: if no plugin may have it, with one that would do.
    :raises NameConflictError: if it is taken, with whose it is.
    """
    bare = re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix(PREFIX)).strip("-")
    if not is_canonical(name) or not name[0].isalpha() or name.startswith(PREFIX):
        fitting = is_canonical(bare) and bare[0].isalpha()
        hint = f": try {bare!r}" if fitting else ", and begins with a letter"
        raise ConfigError(f"{name!r} cannot be a name, which is in kebab-case{hint}")
    for source in registry.sources(name, kind):
        raise NameConflictError(
            f"the {kind} {name!r} is offered by {source} already, and two that offer one name "
            f"cannot both be used: choose another"
        )
    known = registry.lookup(name, kind)
    if known is not None:
        raise NameConflictError(
            f"the {kind} {known['name']!r} is published as {known['distribution']} already: "
            f"choose another name"
        )


@contextmanager
def _copier() -> Iterator[Any]:
    """The package, and its complaints as ours."""
    import copier
    from copier.errors import CopierError

    try:
        yield copier
    except CopierError as error:
        raise JDError(f"{str(error).strip().rstrip('.')} (says copier)") from error


def _release_of(folder: Path) -> str:
    """The release whose template the plugin was made from, or updated to."""
    answers = folder / ANSWERS
    if not answers.exists():
        raise JDError(
            f"{folder.resolve()} has no {ANSWERS}: it was not made by jd new, so that there is "
            f"nothing to update"
        )
    found = re.search(r"^_commit: *'?([\w.]+)'?$", answers.read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise JDError(f"{answers} has no line '_commit: …': put it back as jd new wrote it")
    _check_clean(folder)
    return found[1]


def _check_clean(folder: Path) -> None:
    try:
        changed = _git(folder, "status", "--porcelain")
    except subprocess.CalledProcessError:
        raise JDError(
            f"{folder.resolve()} is not in a git repository, without which its author's changes "
            f"cannot be told from the template's: git init, and commit"
        ) from None
    if changed:
        raise JDError(
            f"{folder.resolve()} has uncommitted changes: commit them, so that an update can be "
            f"looked at, and taken back"
        )


def _conflicts(folder: Path) -> Iterator[str]:
    for line in _git(folder, "status", "--porcelain").splitlines():
        status, path = line[:2], line[3:]
        if "U" in status or status in ("AA", "DD"):
            yield path.strip('"')


def _git_user() -> str | None:
    if shutil.which("git") is None:
        return None
    try:
        return _git(Path.cwd(), "config", "user.name").strip() or None
    except subprocess.CalledProcessError:  # git has no name for the user
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603
        ["git", *arguments],  # noqa: S607  # the user's own git
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
