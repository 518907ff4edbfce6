"""Run inside a plugin's own environment: the plugin's own tests, then what is offered there.

Both in one process, so that torch is imported once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest


class Report:
    """Writes what is offered, and where it was imported from, when the tests are over."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def pytest_sessionfinish(self) -> None:
        import jdframework as jd
        from jdframework import registry
        from jdframework.protocols.names import KINDS

        offered = {kind: names for kind in KINDS if (names := jd.available(kind))}
        classes = [registry.resolve(kind, name) for kind in offered for name in offered[kind]]
        homes = [jd.__file__, *(sys.modules[cls.__module__].__file__ for cls in classes)]
        self.target.write_text(json.dumps({"offered": offered, "homes": homes}), "utf-8")


def main(report: str, tests: str, module: str) -> int:
    """Runs the tests in a folder and the examples in a module."""
    arguments = ["--quiet", "-p", "no:cacheprovider", tests, "--pyargs", module]
    return pytest.main(arguments, plugins=[Report(Path(report).absolute())])


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
