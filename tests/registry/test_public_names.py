from __future__ import annotations

import ast
from pathlib import Path

import pytest

import jdframework as jd

TREE = ast.parse(Path(jd.__file__).read_text("utf-8"))


def names_for_type_checkers() -> set[str]:
    """What the block under ``if TYPE_CHECKING`` imports."""
    (block,) = (
        node
        for node in TREE.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {
        alias.asname or alias.name
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


@pytest.mark.parametrize("name", jd.__all__)
def test_each_public_name_resolves(name: str) -> None:
    assert getattr(jd, name) is not None


def test_type_checkers_and_users_see_the_same_names() -> None:
    assert names_for_type_checkers() == set(jd.__all__) - {"__version__"}


def test_each_public_name_is_in_dir() -> None:
    assert set(jd.__all__) <= set(dir(jd))


def test_submodules_are_attributes() -> None:
    for module in ("bases", "config", "errors", "hooks", "linalg", "protocols", "testing"):
        assert getattr(jd, module).__name__ == f"jdframework.{module}"


def test_no_other_name_is_there() -> None:
    with pytest.raises(AttributeError, match="module 'jdframework' has no attribute 'upgrad'"):
        jd.upgrad  # noqa: B018


def test_every_error_is_a_jd_error_and_says_what_else_it_is() -> None:
    bases = {
        "ConfigError": ValueError,
        "UnknownNameError": LookupError,
        "BlockedNameError": LookupError,
        "NameConflictError": jd.JDError,
        "PluginLoadError": ImportError,
        "UnsupportedModelError": RuntimeError,
        "NonFiniteError": ArithmeticError,
        "SolverError": RuntimeError,
    }
    assert {name for name in jd.__all__ if name.endswith("Error")} == {*bases, "JDError"}
    for name, base in bases.items():
        assert issubclass(getattr(jd, name), (base,))
        assert issubclass(getattr(jd, name), jd.JDError)
