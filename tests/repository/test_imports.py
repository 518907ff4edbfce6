"""The kernel imports no plugin, and a plugin imports no other plugin.

What the kernel's own modules may import of each other is import-linter's in ``make check``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("folder", folders(ROOT), ids=lambda folder: folder.name)
def test_a_plugin_imports_no_other_plugin(folder: Path) -> None:
    own = PREFIX + folder.name.replace("-", "_")
    assert imported_plugins(folder) <= {own}


def test_an_import_is_found_wherever_it_stands() -> None:
    code = "def f():\n    from jd_plugin_mean import Mean\n    import jd_plugin_sum.parts as parts"
    assert set(imported(code)) == {"jd_plugin_mean", "jd_plugin_sum"}
