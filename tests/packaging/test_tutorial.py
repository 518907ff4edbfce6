"""The tutorial is a program: its blocks, run in order from an empty folder, do what they say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import wheelhouse as builder

from .environments import Environment

TUTORIAL = builder.ROOT / "docs" / "plugins" / "write-a-weighting.md"
BLOCK = re.compile(r'^```(sh|python)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)

PIP = """#!/bin/sh
# pip for the reader's environment, which gets everything from the wheelhouse.
command=$1; shift
case $command in
    install) set -- --no-index --find-links '{wheelhouse}' --no-build-isolation "$@" ;;
    wheel) set -- --no-build-isolation "$@" ;;
esac
exec '{python}' -m pip --isolated --disable-pip-version-check --python '{target}' $command "$@"
"""


_ROLES = ("AUTHOR", "COMMITTER")


class Reader:
    """Somebody who types the tutorial into a shell and an editor."""

    def __init__(self, environment: Environment, wheelhouse: Path, folder: Path) -> None:
        self.folder = folder
        self.scripts = environment.python.parent
        pip = self.scripts / "pip"
        text = PIP.format(wheelhouse=wheelhouse, python=sys.executable, target=environment.python)
        pip.write_text(text, "utf-8")
        pip.chmod(0o755)
        pytest_ = self.scripts / "pytest"
        pytest_.write_text(f'#!/bin/sh\nexec {environment.python} -m pytest "$@"\n', "utf-8")
        pytest_.chmod(0o755)
        self.output = ""

    def write(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")

    def type(self, commands: str) -> None:
        """Types commands; the shell stays in the folder that they leave it in."""
        marker = self.folder.parent / "left-in"
        done = subprocess.run(
            ["sh", "-e", "-c", f"{commands}\npwd > '{marker}'"],
            cwd=self.folder,
            env=self._variables(),
            capture_output=True,
            text=True,
            check=False,
        )
        self.output += done.stdout
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        self.folder = Path(marker.read_text("utf-8").strip())

    def _variables(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        who = {
            f"GIT_{w}_{f}": "ada@localhost"
            for w in ("AUTHOR", "COMMITTER")
            for f in ("NAME", "EMAIL")
        }
        path = os.pathsep.join([str(self.scripts), kept["PATH"]])
        return kept | who | {"PATH": path, "HOME": str(self.folder.parent)}


@pytest.mark.slow
def test_the_tutorial_works_from_an_empty_folder(
    wheelhouse: Path, third_party: Path, tmp_path: Path
) -> None:
    environment = Environment(tmp_path / "environment", third_party)
    engines = ["jd-plugin-autojac", "jd-plugin-autogram"]
    ours = ["jdframework", *engines, "jd-plugin-template"]
    environment.install(wheelhouse, "--no-deps", *ours)
    (tmp_path / "work").mkdir()
    reader = Reader(environment, wheelhouse, tmp_path / "work")

    for language, title, text in BLOCK.findall(TUTORIAL.read_text("utf-8")):
        if language == "sh":
            reader.type(text)
        elif title:
            reader.write(title, text)

    assert reader.output.count(" passed") >= 2
    assert "0 failed" in reader.output
    assert "Weights objectives by how far they agree" in reader.output
    losses = [float(loss) for loss in re.findall(r"^\d+ (\d+\.\d+)$", reader.output, re.MULTILINE)]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == 4
    assert "tensor([" in reader.output


def test_every_block_of_the_tutorial_is_run() -> None:
    text = TUTORIAL.read_text("utf-8")
    fences = re.findall(r"^```\w", text, re.MULTILINE)
    blocks = BLOCK.findall(text)
    assert len(fences) == len(blocks)
    assert all(title for language, title, _ in blocks if language == "python")
    assert shutil.which("git")
