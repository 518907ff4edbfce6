"""The plugin author's kit: test suites that prove a method keeps the framework's contract.

Subclass the suite of your method's kind as ``Test…``, set ``spec``, and run pytest::

    from jdframework.testing import WeightingSuite


    class TestMyMethod(WeightingSuite):
        spec = "my-method"

The class attributes of a suite are what the method claims (``permutation_equivariant``, ``scale``,
…); its tests hold it to them. A test cannot be dropped: to override one, mark it xfail and say why.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jdframework.testing.aggregator import AggregatorSuite
    from jdframework.testing.architectures import ARCHITECTURES, Architecture
    from jdframework.testing.blocks import combine_blocks
    from jdframework.testing.derived import derived_suite
    from jdframework.testing.engine import EngineSuite
    from jdframework.testing.families import FAMILIES, Family
    from jdframework.testing.precision import DTYPES, devices
    from jdframework.testing.scalarizer import ScalarizerSuite
    from jdframework.testing.strategies import gramians, jacobians, losses
    from jdframework.testing.weighting import WeightingSuite

_HOMES: Final = {
    "ARCHITECTURES": "architectures",
    "DTYPES": "precision",
    "FAMILIES": "families",
    "AggregatorSuite": "aggregator",
    "Architecture": "architectures",
    "EngineSuite": "engine",
    "Family": "families",
    "ScalarizerSuite": "scalarizer",
    "WeightingSuite": "weighting",
    "combine_blocks": "blocks",
    "derived_suite": "derived",
    "devices": "precision",
    "gramians": "strategies",
    "jacobians": "strategies",
    "losses": "strategies",
}
_SUITES: Final = (
    "suite",
    "method",
    "weighting",
    "aggregator",
    "scalarizer",
    "engine",
    "linearizing",
    "truth",
)

__all__ = [
    "ARCHITECTURES",
    "DTYPES",
    "FAMILIES",
    "AggregatorSuite",
    "Architecture",
    "EngineSuite",
    "Family",
    "ScalarizerSuite",
    "WeightingSuite",
    "combine_blocks",
    "derived_suite",
    "devices",
    "gramians",
    "jacobians",
    "losses",
]


def __getattr__(name: str) -> Any:
    """Loads what is used when it is first used: who takes none of it pays nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'jdframework.testing' has no attribute {name!r}")
    _prepare()
    value = getattr(importlib.import_module(f"jdframework.testing.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def _prepare() -> None:
    """Says what is missing, and has pytest show the values that a suite's assert compared."""
    for needed in ("hypothesis", "pytest"):
        try:
            importlib.import_module(needed)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"jdframework.testing needs {error.name}, which is not installed: "
                f"pip install 'jdframework[testing]'",
                name=error.name,
            ) from None
    names = [f"jdframework.testing.{module}" for module in _SUITES]
    if not any(name in sys.modules for name in names):
        sys.modules["pytest"].register_assert_rewrite(*names)
