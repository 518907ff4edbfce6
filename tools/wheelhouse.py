"""Builds every distribution of the repository: ``python tools/wheelhouse.py TARGET``.

The build backend is called in this process, which takes some milliseconds a distribution; a build
front-end would take a second.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Final

from flit_core import buildapi

ROOT: Final = Path(__file__).resolve().parent.parent


def main(arguments: list[str] | None = None) -> int:
    """The command: a wheel and an sdist of each distribution."""
    parser = argparse.ArgumentParser(prog="tools/wheelhouse.py", description=__doc__)
    parser.add_argument("target", type=Path, help="the folder to put them in")
    target = parser.parse_args(arguments).target.resolve()
    target.mkdir(parents=True, exist_ok=True)
    for source in sources(ROOT):
        print(build_wheel(source, target).name)
        print(build_sdist(source, target).name)
    return 0


def sources(root: Path) -> list[Path]:
    """The folder of every distribution, the kernel's first."""
    return [root, *sorted(path.parent for path in root.glob("plugins/*/*/pyproject.toml"))]


def build_wheel(source: Path, target: Path) -> Path:
    """Builds the wheel of the distribution in ``source``."""
    with contextlib.chdir(source):
        return target / str(buildapi.build_wheel(str(target)))


def build_sdist(source: Path, target: Path) -> Path:
    """Builds its source distribution."""
    with contextlib.chdir(source):
        return target / str(buildapi.build_sdist(str(target)))


if __name__ == "__main__":
    raise SystemExit(main())
