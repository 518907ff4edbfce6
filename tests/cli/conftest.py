"""The command line, run in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from jdframework.cli import main

from .fabrication import Site

JD = Path(sysconfig.get_path("scripts")) / "jd"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


class Command(Protocol):
    def __call__(self, *arguments: str, **environment: str) -> Ended: ...


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Distributions that this process, and those it starts, find installed."""
    root = tmp_path / "site"
    root.mkdir()
    monkeypatch.syspath_prepend(str(root))
    before = set(sys.modules)
    yield Site(root)
    for name in set(sys.modules) - before:
        if (root / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture(autouse=True)
def _no_width_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes of pytest set one for all that they start."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def jd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``jd`` in this process."""

    def run(*arguments: str, **environment: str) -> Ended:
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        monkeypatch.setattr(sys, "argv", ["jd", *arguments])
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def installed_jd(tmp_path: Path) -> Command:
    """``jd`` as it is installed, in a process of its own; it finds the site's distributions."""

    def run(*arguments: str, **environment: str) -> Ended:
        path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [JD, *arguments],
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run
