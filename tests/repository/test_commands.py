"""Every ``make`` command that a page names is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"(?:^|`)make ([a-z ]+?)(?:`|  | [A-Z]|$)", re.MULTILINE)

TARGETS = sorted(
    {
        target
        for page in PAGES
        for found in COMMAND.findall(page.read_text("utf-8"))
        for target in found.split()
    }
)


def test_the_front_page_names_the_two_commands() -> None:
    assert {"demo", "test"} <= set(COMMAND.findall((ROOT / "README.md").read_text("utf-8")))


@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_the_target(target: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_make_help_explains_the_target(target: str) -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(rf"^make {target}\s+\S", done.stdout, re.MULTILINE)
