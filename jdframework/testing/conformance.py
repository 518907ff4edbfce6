"""The suites run over an installed name, outside of any test file: what ``jd check`` reports."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import pytest

import jdframework as jd
from jdframework.protocols.names import Kind
from jdframework.testing.derived import derived_suite
from jdframework.testing.suite import Suite

Verdict = Literal["passed", "failed", "not applicable"]
"""What a test came to."""

_AUTOLOAD: Final = "PYTEST_DISABLE_PLUGIN_AUTOLOAD"
_FILE: Final = "from jdframework.testing import conformance\n\nTestSuite = conformance.pending()\n"


@dataclass(frozen=True)
class Finding:
    """What one test of a suite found."""

    test: str
    """The test's name."""
    promise: str
    """What the test holds the method to, in a sentence."""
    verdict: Verdict
    """``"failed"`` if one of its cases did, else ``"passed"`` if one did."""
    cases: int
    """How often the test ran, with other families, shapes or models each time."""
    reason: str = ""
    """Why it failed, or why it does not apply."""


@dataclass(frozen=True)
class Conformance:
    """What the suite of one kind found about one name."""

    kind: Kind
    """As what it was tested."""
    name: str
    """What was tested."""
    findings: tuple[Finding, ...]
    """One for each test of the suite, in their order."""

    @property
    def passed(self) -> bool:
        """Whether no test failed."""
        return not self.of("failed")

    def of(self, verdict: Verdict) -> list[Finding]:
        """The findings with this ``verdict``."""
        return [finding for finding in self.findings if finding.verdict == verdict]


def conformance(
    kind: Kind,
    name: str,
    config: Mapping[str, Any] | None = None,
    on_case: Callable[[int, int], None] = lambda done, total: None,
) -> Conformance:
    """Runs the suite of ``kind`` over an installed name.

    :param kind: As what ``name`` is tested; ``"aggregator"`` tests a weighting as the aggregator
        that is made of it.
    :param name: The name of a method or an engine.
    :param config: Its settings, where they do not follow from its schema.
    :param on_case: Is told how many cases are done, and of how many.
    :raises JDError: if the name cannot be resolved, or takes no such settings.
    :raises LookupError: if a required setting has no value that follows from its schema.

    >>> conformance("weighting", "mean").passed
    True
    """
    attributes = {} if config is None else {"config": config}
    suite = derived_suite(kind, name, **attributes)
    _refuse_bad_settings(suite)
    watch = _Watch(on_case)
    with _waiting(suite), TemporaryDirectory(prefix="jd-check-") as folder:
        # Python keeps modules by name, so that each run needs a name of its own.
        file = Path(folder, f"test_conformance_{next(_runs)}.py")
        file.write_text(_FILE, "utf-8")
        options = ["-c", os.devnull, f"--rootdir={folder}", "--import-mode=importlib"]
        without = ["-p", "no:terminal", "-p", "no:cacheprovider", "-p", "no:warnings"]
        status = pytest.main([str(file), *options, *without], plugins=[watch])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest could not run the suite of {name}: {status!r}")
    return Conformance(kind, jd.describe(name, kind).name, tuple(watch.findings(suite)))


_pending: Final[list[type[Suite]]] = []
_runs: Final = itertools.count()


def pending() -> type[Suite]:
    """The suite that is about to run; for the file that pytest collects."""
    return _pending[-1]


@contextmanager
def _waiting(suite: type[Suite]) -> Iterator[None]:
    """Lets the file find ``suite``, and keeps the user's pytest plugins out of it."""
    before = os.environ.get(_AUTOLOAD)
    os.environ[_AUTOLOAD] = "1"
    _pending.append(suite)
    try:
        yield
    finally:
        _pending.pop()
        del os.environ[_AUTOLOAD]
        if before is not None:
            os.environ[_AUTOLOAD] = before


class _Watch:
    """A pytest plugin that remembers each case's outcome by the test's name."""

    def __init__(self, on_case: Callable[[int, int], None]) -> None:
        self._on_case = on_case
        self._cases: dict[str, list[tuple[str, Verdict, str]]] = {}
        self._done = self._total = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._total = len(session.items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            test, _, case = report.nodeid.rpartition("::")[2].partition("[")
            outcome = (case.rstrip("]"), _VERDICTS[report.outcome], _reason(report))
            self._cases.setdefault(test, []).append(outcome)
        if report.when == "teardown":
            self._done += 1
            self._on_case(self._done, self._total)

    def findings(self, suite: type[Suite]) -> Iterator[Finding]:
        """One per test, in the order of the suite."""
        for test, cases in self._cases.items():
            verdicts = [verdict for _, verdict, _ in cases]
            verdict = next(v for v in ("failed", "passed", "not applicable") if v in verdicts)
            case, _, reason = next(found for found in cases if found[1] == verdict)
            if reason.startswith("not run:"):
                continue
            where = f"{case}: " if case and verdict == "failed" else ""
            promise = _plain(getattr(suite, test).__doc__ or test)
            yield Finding(test, promise, verdict, len(cases), where + reason)


_VERDICTS: Final[dict[str, Verdict]] = {
    "passed": "passed",
    "failed": "failed",
    "skipped": "not applicable",
}


def _refuse_bad_settings(suite: type[Suite]) -> None:
    try:
        suite().make()
    except jd.JDError:
        raise
    except Exception:  # noqa: BLE001  # that is for the suite to report
        return


def _plain(docstring: str) -> str:
    """The first sentence, without markup.

    >>> _plain("As :meth:`optimality` measures ``G``.")
    'As optimality() measures G'
    """
    sentence = docstring.strip().splitlines()[0].rstrip(".")
    return re.sub(r":meth:`(.*?)`", r"\1()", sentence).replace("``", "")


def _reason(report: pytest.TestReport) -> str:
    """The sentence in which the test says what is wrong, or why it does not apply."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ").removeprefix("not applicable: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return str(report.longrepr or "")
    first = str(crash.message).strip().splitlines()[0]
    return first.removeprefix("AssertionError: ").removeprefix("Failed: ")
