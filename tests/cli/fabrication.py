"""Distributions that exist only for one test."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BROKEN = "raise OSError('a library is missing')"

WEIGHTING = """
import torch
from jdframework.bases import GramianWeighting

class Fabricated(GramianWeighting):
    '''Fabricated for a test.'''

    def forward(self, gramian, /):
        return torch.ones(len(gramian), dtype=gramian.dtype)
"""


@dataclass(frozen=True)
class Site:
    """A folder of installed distributions."""

    root: Path

    def install(
        self,
        distribution: str,
        groups: Mapping[str, Mapping[str, str]],
        modules: Mapping[str, str] | None = None,
        *,
        version: str = "1.2.3",
        summary: str = "",
    ) -> None:
        """Writes a distribution's metadata, and its modules."""
        info = self.root / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        metadata = {
            "Metadata-Version": "2.4",
            "Name": distribution,
            "Version": version,
            "Summary": summary,
        }
        lines = [f"{field}: {value}" for field, value in metadata.items()]
        info.joinpath("METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
        sections = [
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
            for group, entries in groups.items()
        ]
        info.joinpath("entry_points.txt").write_text("\n".join(sections), encoding="utf-8")
        for module, code in (modules or {}).items():
            path = self.root / f"{module}.py"
            path.write_text(textwrap.dedent(code), encoding="utf-8")

    def weighting(self, distribution: str, name: str, code: str = WEIGHTING, **more: str) -> None:
        """Writes a distribution that offers one weighting."""
        module = distribution.replace("-", "_")
        groups = {"jdframework.weightings": {name: f"{module}:Fabricated"}}
        self.install(distribution, groups, {module: code}, **more)

    def engine(self, distribution: str, name: str, code: str) -> None:
        """Writes a distribution that offers one engine."""
        self.plugin(distribution, "engine", name, code)

    def plugin(self, distribution: str, kind: str, name: str, code: str) -> None:
        """Writes a distribution that offers one name of any kind."""
        module = distribution.replace("-", "_")
        groups = {f"jdframework.{kind}s": {name: f"{module}:Fabricated"}}
        self.install(distribution, groups, {module: code})

    def observer(self, distribution: str, name: str, code: str) -> None:
        """Writes a distribution that observes."""
        module = distribution.replace("-", "_")
        self.install(distribution, {"jdframework.hooks": {name: module}}, {module: code})
