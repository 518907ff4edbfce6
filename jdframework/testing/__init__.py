"""The plugin author's kit: test suites that prove a method keeps the framework's contract.

Subclass the suite of your method's kind as ``Test…``, set ``spec``, and run pytest::

    from jdframework.testing import WeightingSuite


    class TestMyMethod(WeightingSuite):
        spec = "my-method"

The class attributes of a suite are what the method claims (``permutation_equivariant``, ``scale``,
…); its tests hold it to them. A test cannot be dropped: to override one, mark it xfail and say why.
"""

# What is missing has to be said before the modules that need it are imported.
# ruff: noqa: E402

from __future__ import annotations

try:
    import hypothesis  # noqa: F401
    import pytest
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"jdframework.testing needs {error.name}, which is not installed: "
        f"pip install 'jdframework[testing]'",
        name=error.name,
    ) from None

# A failing assert of a suite then shows the values that it compared, as one in a test file does.
pytest.register_assert_rewrite(
    *(
        f"jdframework.testing.{module}"
        for module in ("suite", "method", "weighting", "aggregator", "scalarizer", "engine")
    )
)

from jdframework.testing.aggregator import AggregatorSuite
from jdframework.testing.architectures import ARCHITECTURES, Architecture
from jdframework.testing.derived import derived_suite
from jdframework.testing.engine import EngineSuite
from jdframework.testing.jacobians import FAMILIES, Family
from jdframework.testing.precision import DTYPES, devices
from jdframework.testing.scalarizer import ScalarizerSuite
from jdframework.testing.strategies import gramians, jacobians, losses
from jdframework.testing.weighting import WeightingSuite

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
    "derived_suite",
    "devices",
    "gramians",
    "jacobians",
    "losses",
]
