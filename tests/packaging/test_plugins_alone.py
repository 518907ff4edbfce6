"""Every plugin works with the kernel alone, installed from wheels into an empty environment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import wheelhouse as builder
from plugin_folder import Plugin
from plugins import folders

from .environments import Environment

FOLDERS = folders(builder.ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_plugin_needs_nothing_but_the_kernel(
    folder: Path, wheelhouse: Path, new_environment: Callable[[], Environment], tmp_path: Path
) -> None:
    plugin = Plugin.read(folder)
    environment = new_environment()
    environment.install(wheelhouse, "--no-deps", "jdframework", plugin.distribution)
    workplace = tmp_path / "workplace"
    workplace.mkdir()
    shutil.copy(builder.ROOT / "pyproject.toml", workplace)  # pytest's settings
    shutil.copytree(folder / "tests", workplace / "tests")

    alone = Path(__file__).with_name("alone.py")
    done = environment.run(alone, "report.json", "tests", plugin.module, folder=workplace)

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((workplace / "report.json").read_text("utf-8"))
    assert report["offered"] == plugin.names()
    assert all(Path(home).is_relative_to(environment.packages) for home in report["homes"])
