"""Every public object is documented, and the check that says so finds what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from griffe import GriffeLoader, Object

import reference

MODULE = '''
"""A module."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Box", "Bare", "bare", "half", "plain", "shapeless", "whole"]


def bare(x): ...


def half(x, y):
    """Adds.

    :param x: One.
    """


def whole(x, y):
    """``x`` and the other.

    :param y: The other.
    """


def plain():
    """Takes nothing."""


def shapeless(x: Tensor):
    """Looks at ``x``."""


class Bare: ...


@dataclass
class Box:
    """Holds things."""

    inside: int
    kept: int
    """What is kept."""

    def open(self): ...
'''


@pytest.fixture
def shortcomings(tmp_path: Path) -> dict[str, list[str]]:
    (tmp_path / "sample.py").write_text(MODULE, "utf-8")
    module = GriffeLoader(search_paths=[tmp_path]).load("sample")
    members = {name: module[name] for name in module.exports or ()}
    return {
        str(name): list(reference.shortcomings(member))
        for name, member in members.items()
        if isinstance(member, Object)
    }


def test_every_public_object_is_documented() -> None:
    assert [line for p in reference.public_objects() for line in reference.shortcomings(p)] == []


def test_the_check_looks_at_what_users_see() -> None:
    paths = {public.path for public in reference.public_objects()}
    assert "jdframework.descent.descent.Descent" in paths
    assert "jdframework.linalg.gramian.cosines" in paths
    assert "jdframework.bases.weighting.GramianWeighting" in paths
    assert len(paths) > 80


def test_what_is_not_said_is_found(shortcomings: dict[str, list[str]]) -> None:
    assert shortcomings == {
        "bare": ["sample.bare: has no docstring"],
        "half": ["sample.half: says nothing of the parameter y"],
        "whole": [],
        "plain": [],
        "shapeless": ["sample.shapeless: says nothing of the shape of x"],
        "Bare": ["sample.Bare: has no docstring"],
        "Box": ["sample.Box.inside: has no docstring", "sample.Box.open: has no docstring"],
    }
