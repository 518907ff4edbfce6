"""The order of the whole suite."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: where several processes share the suite, none waits for it at the end."""
    items.sort(key=lambda item: "packaging" not in item.path.parts)
