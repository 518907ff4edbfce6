"""Distributions that are installed for one test only."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

WEIGHTING = """
from jdframework.bases import GramianWeighting

class Method(GramianWeighting):
    "A method for one test."

    def forward(self, gramian):
        return gramian.new_full((len(gramian),), {value})
"""
_numbers = itertools.count()


@dataclass
class Site:
    """A folder on ``sys.path`` in which distributions are installed."""

    folder: Path
    modules: set[str] = field(default_factory=set)

    def module(self, source: str) -> str:
        """Writes a module; its name, which no other test uses."""
        name = f"fabricated_{next(_numbers)}"
        self.modules.add(name)
        self.write(name, source)
        return name

    def write(self, module: str, source: str) -> None:
        """Writes a module's source anew."""
        (self.folder / f"{module}.py").write_text(source, "utf-8")
        importlib.invalidate_caches()

    def install(
        self,
        distribution: str,
        groups: Mapping[str, Mapping[str, str]],
        version: str = "1.0",
        requires: Iterable[str] = (),
    ) -> None:
        """Writes what ``pip install`` leaves: metadata and entry points by group and name."""
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        metadata += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        (info / "METADATA").write_text(metadata + "Summary: Fabricated\n", "utf-8")
        lines = []
        for group, entries in groups.items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
        (info / "entry_points.txt").write_text("\n".join(lines), "utf-8")

    def weighting(
        self, distribution: str, *names: str, value: float = 1.0, aliases: Iterable[str] = ()
    ) -> str:
        """Installs a weighting of constant weights; its module."""
        module = self.module(WEIGHTING.format(value=value))
        groups = {
            "jdframework.weightings": dict.fromkeys(names, f"{module}:Method"),
            "jdframework.aliases.weightings": dict.fromkeys(aliases, f"{module}:Method"),
        }
        self.install(distribution, groups)
        return module


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty folder on ``sys.path``."""
    site = Site(tmp_path / "site")
    site.folder.mkdir()
    monkeypatch.syspath_prepend(str(site.folder))
    yield site
    for module in site.modules:
        sys.modules.pop(module, None)
