"""Every installed plugin, found by discovery, keeps the contract of its kind."""

from __future__ import annotations

import pytest

import jdframework as jd
from jdframework.protocols.names import KINDS, Kind
from jdframework.testing import derived_suite

INSTALLED: list[tuple[Kind, str]] = [(kind, name) for kind in KINDS for name in jd.available(kind)]
TESTED = [*INSTALLED, *(("aggregator", name) for kind, name in INSTALLED if kind == "weighting")]


@pytest.mark.parametrize(("kind", "name"), INSTALLED)
def test_the_name_can_be_loaded_and_has_a_suite(kind: Kind, name: str) -> None:
    assert derived_suite(kind, name).spec == name


def _add_suites() -> None:
    for kind, name in TESTED:
        try:
            suite = derived_suite(kind, name)
        except (jd.JDError, LookupError):  # the test above reports it
            continue
        suite.__module__ = __name__
        globals()[suite.__name__] = suite


_add_suites()
