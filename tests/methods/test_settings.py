"""What every method promises of its settings."""

from __future__ import annotations

import math
from typing import Any

import pytest

import jdframework as jd
from jdframework.protocols.names import Kind
from jdframework.testing import derived_suite

KINDS: tuple[Kind, ...] = ("weighting", "aggregator", "scalarizer")
SETTINGS = [
    (kind, name, field)
    for kind in KINDS
    for name in jd.available(kind)
    for field in jd.describe(name, kind).config_schema.get("properties", {})
]


@pytest.mark.parametrize(("kind", "name", "field"), SETTINGS)
def test_settings_that_json_cannot_hold_are_refused(kind: Kind, name: str, field: str) -> None:
    """Neither NaN nor infinity would come back from ``model_dump_json()``."""
    suite = derived_suite(kind, name)
    for value in (math.nan, math.inf):
        given: Any
        for given in (value, [value] * 3, [1.0, value, 1.0]):
            with pytest.raises(jd.ConfigError):
                getattr(jd, kind)(name, **{**suite.config, field: given})
