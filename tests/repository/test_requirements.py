"""What is written in two places of ``pyproject.toml``, because it must be, says the same."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

METADATA = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
GROUPS = METADATA["dependency-groups"]


def test_the_torch_that_is_tested_is_one_that_the_kernel_allows() -> None:
    (allowed,) = [
        requirement
        for requirement in map(Requirement, METADATA["project"]["dependencies"])
        if requirement.name == "torch"
    ]
    (tested,) = map(Requirement, GROUPS["torch"])
    (pin,) = tested.specifier
    assert pin.operator == "=="
    assert allowed.specifier.contains(pin.version)


def test_the_build_group_is_what_the_build_needs() -> None:
    assert GROUPS["build"] == METADATA["build-system"]["requires"]
