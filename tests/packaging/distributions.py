"""Small distributions that are written, built and installed for one test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import wheelhouse as builder

WEIGHTING = '''
"""A weighting of equal weights."""

from jdframework.bases import GramianWeighting


class Method(GramianWeighting):
    """Gives each objective the weight {weight}."""

    def forward(self, gramian):
        return gramian.new_full((len(gramian),), {weight})
'''

PYPROJECT = """
[build-system]
requires = ["flit_core>=3.11,<5"]
build-backend = "flit_core.buildapi"

[project]
name = "{distribution}"
version = "{version}"
description = "A distribution of a test"
dependencies = [{dependencies}]
{entry_points}
[tool.flit.module]
name = "{module}"
"""


def write(
    folder: Path,
    distribution: str,
    entry_points: Mapping[str, Mapping[str, str]],
    code: str,
    *,
    dependencies: Sequence[str] = ("jdframework",),
    version: str = "1.0",
) -> Path:
    """Writes a distribution with one module; its folder, to be built or installed.

    :param folder: Where its folder is made.
    :param distribution: Its name; the module's is the same with underscores.
    :param entry_points: By group and name; ``{module}`` in a value is the module's name.
    :param code: The module's.
    :param dependencies: What it says that it needs.
    :param version: Its version.
    """
    module = distribution.replace("-", "_")
    source = folder / distribution
    source.mkdir(parents=True, exist_ok=True)
    (source / f"{module}.py").write_text(code.lstrip(), "utf-8")
    groups = "".join(
        f'\n[project.entry-points."{group}"]\n'
        + "".join(f'{name} = "{value.format(module=module)}"\n' for name, value in names.items())
        for group, names in entry_points.items()
    )
    pyproject = PYPROJECT.format(
        distribution=distribution,
        version=version,
        dependencies=", ".join(f'"{requirement}"' for requirement in dependencies),
        entry_points=groups,
        module=module,
    )
    (source / "pyproject.toml").write_text(pyproject.lstrip(), "utf-8")
    return source


def weighting(folder: Path, distribution: str, name: str, **more: object) -> Path:
    """Writes a distribution that offers one weighting."""
    code = str(more.pop("code", WEIGHTING.format(weight=1.0)))
    groups = {"jdframework.weightings": {name: "{module}:Method"}}
    return write(folder, distribution, groups, code, **more)  # type: ignore[arg-type]


def build(source: Path, target: Path) -> Path:
    """Builds its wheel."""
    return builder.build_wheel(source, target)
