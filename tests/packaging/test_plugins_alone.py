"""Every plugin works with the kernel alone, and an application with what it declares.

Installed from wheels into an empty environment.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import wheelhouse as builder
from plugin_folder import APPLICATIONS, Plugin
from plugin_metadata import folders

from .environments import Environment

FOLDERS = folders(builder.ROOT)


@dataclass(frozen=True)
class Alone:
    """What came of one plugin in an environment of its own."""

    environment: Environment
    done: subprocess.CompletedProcess[str]
    report: Path


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest,
    wheelhouse: Path,
    third_party: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[Path, Future[Alone]]]:
    """Those of this module's tests that are to run, one process on each core."""
    here = (item for item in request.session.items if item.path == Path(__file__))
    chosen: list[Path] = [item.callspec.params["folder"] for item in _parametrized(here)]
    with ThreadPoolExecutor(os.cpu_count()) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # the cores are busy with the other environments
        base = tmp_path_factory.mktemp("alone")
        yield {
            folder: pool.submit(_alone, folder, base / folder.name, wheelhouse, third_party)
            for folder in chosen
        }


def _parametrized(items: Iterator[pytest.Item]) -> Iterator[Any]:
    return (item for item in items if hasattr(item, "callspec"))


def _alone(folder: Path, base: Path, wheelhouse: Path, third_party: Path) -> Alone:
    """Installs the plugin's wheel and the kernel's, and runs its tests there.

    An application gets what its metadata says that it and its tests need, and no more.
    """
    plugin = Plugin.read(folder)
    environment = Environment(base / "environment", third_party)
    if folder.parent.name == APPLICATIONS:
        environment.install(wheelhouse, f"{plugin.distribution}[test]")
    else:
        environment.install(wheelhouse, "--no-deps", "jdframework", plugin.distribution)
    workplace = base / "workplace"
    workplace.mkdir()
    shutil.copy(builder.ROOT / "pyproject.toml", workplace)  # pytest's settings
    shutil.copytree(folder / "tests", workplace / "tests")
    script = Path(__file__).with_name("alone.py")
    done = environment.run(script, "report.json", "tests", plugin.module, folder=workplace)
    return Alone(environment, done, workplace / "report.json")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # the first waits for those before it in the queue
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_plugin_needs_nothing_but_the_kernel_and_what_it_declares(
    folder: Path, running: dict[Path, Future[Alone]]
) -> None:
    alone = running[folder].result()
    assert alone.done.returncode == 0, alone.done.stdout + alone.done.stderr
    report = json.loads(alone.report.read_text("utf-8"))
    if folder.parent.name != APPLICATIONS:
        assert report["offered"] == Plugin.read(folder).names()
    assert all(Path(home).is_relative_to(alone.environment.packages) for home in report["homes"])
