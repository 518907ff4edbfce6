"""Every promise of reliability has tests, and what the index names is there."""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
INDEX: dict[str, list[dict[str, Any]]] = tomllib.loads(
    Path(__file__).with_name("rows.toml").read_text("utf-8")
)
NAMED = [test for entries in INDEX.values() for entry in entries for test in entry["tests"]]


@cache
def names_in(path: str) -> frozenset[str]:
    """The functions and methods of a file that are tests, as pytest spells them."""
    found: list[str] = []
    for node in ast.parse((ROOT / path).read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found += [f"{node.name}::{inner.name}" for inner in node.body if is_test(inner)]
        elif is_test(node):
            found.append(node.name)
    return frozenset(found)


def is_test(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name.startswith("test_")


def test_each_of_the_thirteen_rows_is_there_once() -> None:
    assert [row["number"] for row in INDEX["rows"]] == list(range(1, 14))


@pytest.mark.parametrize("test", NAMED)
def test_a_test_that_is_named_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert name in names_in(path)


def test_no_test_is_named_twice() -> None:
    assert len(set(NAMED)) == len(NAMED)


def test_every_file_of_this_folder_shows_a_row() -> None:
    here = Path(__file__).parent
    files = {file.relative_to(ROOT).as_posix() for file in here.glob("test_*.py")}
    assert files - {test.partition("::")[0] for test in NAMED} == {
        Path(__file__).relative_to(ROOT).as_posix()
    }


def test_a_name_that_is_not_there_is_noticed() -> None:
    assert "test_of_nothing" not in names_in("tests/hooks/test_hooks.py")
    assert "TestStep::test_it_holds_no_graph" in names_in("tests/descent/test_descent.py")
