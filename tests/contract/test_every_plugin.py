"""Every installed plugin, found by discovery, keeps the contract of its kind."""

from __future__ import annotations

import pytest

import jdframework as jd
from jdframework.names import KINDS, Kind
from jdframework.testing import derived_suite

INSTALLED: list[tuple[Kind, str]] = [(kind, name) for kind in KINDS for name in jd.available(kind)]
TESTED = [*INSTALLED, *(("aggregator", name) for kind, name in INSTALLED if kind == "weighting")]

# What a method's schema does not tell: class attributes of its suite.
CLAIMS: dict[tuple[Kind, str], dict[str, object]] = {
    ("scalarizer", "famo"): {"negative_losses": False, "stops_gradient": True},
    ("scalarizer", "geometric-mean"): {"negative_losses": False},
    ("weighting", "fairgrad"): {"scale": None},
    ("weighting", "nash-mtl"): {"scale": "invariant"},
    # Of equal scores the first objective's wins, as in the paper.
    ("weighting", "krum"): {"permutation_equivariant": False, "permutation_invariant": False},
}
"""Of a weighting they are also those of the aggregator that it makes."""


@pytest.mark.parametrize(("kind", "name"), INSTALLED)
def test_the_name_can_be_loaded_and_has_a_suite(kind: Kind, name: str) -> None:
    assert derived_suite(kind, name, **CLAIMS.get((kind, name), {})).spec == name


def test_the_exceptions_are_of_installed_plugins() -> None:
    assert set(CLAIMS) <= set(INSTALLED)


def _add_suites() -> None:
    for kind, name in TESTED:
        try:
            claims = CLAIMS.get((kind, name)) or CLAIMS.get(("weighting", name), {})
            suite = derived_suite(kind, name, **claims)
        except (jd.JDError, LookupError):  # the test above reports it
            continue
        suite.__module__ = __name__
        globals()[suite.__name__] = suite


_add_suites()
