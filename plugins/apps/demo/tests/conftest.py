"""One comparison that is small enough for tests."""

from __future__ import annotations

import pytest

from jd_plugin_demo.comparison import Comparison, compare
from jd_plugin_demo.data import Digits, overlaid_digits
from jd_plugin_demo.training import Setting
from jd_plugin_report.contestants import contestants

METHODS = ("sum", "uw", "mgda", "upgrad")
TINY = Setting(epochs=2, train_pairs=300, test_pairs=120, batch_size=32, measure_every=3)


@pytest.fixture(scope="session")
def digits() -> Digits:
    """The data of the tiny setting."""
    return overlaid_digits(TINY.train_pairs, TINY.test_pairs, TINY.seed)


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    """The default methods in the tiny setting."""
    return compare(contestants(METHODS), TINY, lambda name, steps: None)
