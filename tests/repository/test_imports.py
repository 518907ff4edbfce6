"""The kernel imports no plugin, and a plugin none but those that its metadata declares.

What the kernel's own modules may import of each other is import-linter's in ``make check``.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from plugin_folder import APPLICATIONS
from plugin_metadata import ROOT, folders

PREFIX = "jd_plugin_"


def imported(code: str) -> Iterator[str]:
    """The top-level names that ``code`` imports, inside functions too."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def imported_plugins(folder: Path) -> set[str]:
    files = folder.rglob("*.py")
    names = {name for file in files for name in imported(file.read_text("utf-8"))}
    return {name for name in names if name.startswith(PREFIX)}


def test_the_kernel_imports_no_plugin() -> None:
    assert imported_plugins(ROOT / "jdframework") == set()


def declared(folder: Path, *, for_tests: bool) -> set[str]:
    """The modules of the distributions that a plugin's ``pyproject.toml`` names."""
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    texts = list(project["dependencies"])
    if for_tests:
        texts += project.get("optional-dependencies", {}).get("test", [])
    return {Requirement(text).name.replace("-", "_") for text in texts}


@pytest.mark.parametrize("folder", folders(ROOT), ids=lambda folder: folder.name)
def test_a_plugin_imports_no_plugin_that_it_does_not_declare(folder: Path) -> None:
    own = PREFIX + folder.name.replace("-", "_")
    assert imported_plugins(folder / "src") <= {own} | declared(folder, for_tests=False)
    assert imported_plugins(folder / "tests") <= {own} | declared(folder, for_tests=True)


@pytest.mark.parametrize(
    "folder",
    [folder for folder in folders(ROOT) if folder.parent.name != APPLICATIONS],
    ids=lambda folder: folder.name,
)
def test_a_method_and_an_engine_import_no_other_plugin(folder: Path) -> None:
    own = PREFIX + folder.name.replace("-", "_")
    assert imported_plugins(folder) <= {own}


def test_an_import_is_found_wherever_it_stands() -> None:
    code = "def f():\n    from jd_plugin_mean import Mean\n    import jd_plugin_sum.parts as parts"
    assert set(imported(code)) == {"jd_plugin_mean", "jd_plugin_sum"}
