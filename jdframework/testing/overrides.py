"""The tests of a suite cannot be dropped: only an override that is marked xfail, with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

_FIXTURES: Final = frozenset({"family", "architecture"})


def check_overrides(cls: type, suites: tuple[type, ...]) -> None:
    """Refuses a subclass of a suite that replaces, removes or hides one of its tests.

    A suite's fixtures are kept in the same way, as they decide which cases the tests see.

    :param cls: The subclass.
    :param suites: The suites among its bases, as the framework wrote them.
    :raises TypeError: naming the class, the test, and how to mark it.
    """
    for suite in suites:
        for name in _kept(suite):
            if _definition(cls, name) is not vars(suite)[name] and not _overridden_by_suite(
                cls, suites, name
            ):
                _check_marked(cls, suite, name)
    if vars(cls).get("__test__", True) is False:
        raise TypeError(f"{cls.__name__} sets __test__ = False, which drops all tests of its suite")


def _kept(suite: type) -> Iterator[str]:
    """The names of the suite's own tests and fixtures."""
    for name in vars(suite):
        if name.startswith("test_") or name in _FIXTURES:
            yield name


def _definition(cls: type, name: str) -> Any:
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


def _overridden_by_suite(cls: type, suites: tuple[type, ...], name: str) -> bool:
    """Whether what ``cls`` has under ``name`` is another suite's own, more special one."""
    found = _definition(cls, name)
    return any(name in vars(suite) and vars(suite)[name] is found for suite in suites)


def _check_marked(cls: type, suite: type, name: str) -> None:
    marks = getattr(_definition(cls, name), "pytestmark", [])
    # With a condition, or not run at all, it may as well be dropped.
    always = [mark for mark in marks if mark.name == "xfail" and not mark.args]
    reasons = [mark.kwargs["reason"] for mark in always if set(mark.kwargs) == {"reason"}]
    if not any(isinstance(reason, str) and reason.strip() for reason in reasons):
        raise TypeError(
            f"{cls.__name__} overrides {suite.__name__}.{name}, which would drop it silently: "
            f'mark the override with @pytest.mark.xfail(reason="…"), or remove it'
        )
