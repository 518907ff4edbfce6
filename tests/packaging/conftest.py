"""One wheelhouse for all tests of packaging, and one folder of third-party packages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import wheelhouse as builder

from .environments import Environment, link_third_party


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every distribution of the repository as a wheel."""
    target = tmp_path_factory.mktemp("wheelhouse")
    for source in builder.sources(builder.ROOT):
        builder.build_wheel(source, target)
    return target


@pytest.fixture(scope="session")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is installed here, without this repository's own."""
    target = tmp_path_factory.mktemp("third-party")
    link_third_party(target)
    return target


@pytest.fixture
def new_environment(tmp_path: Path, third_party: Path) -> Callable[[], Environment]:
    """Makes the test's own virtual environment."""
    return lambda: Environment(tmp_path / "environment", third_party)
