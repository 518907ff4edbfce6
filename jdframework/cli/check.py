"""``jd check``: whether a plugin keeps the framework's contract."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jdframework.cli import completion, console
from jdframework.errors import ConfigError, JDError
from jdframework.protocols.names import KINDS, Kind
from jdframework.registry import discovery

if TYPE_CHECKING:
    from rich.progress import Progress

    from jdframework.testing.conformance import Conformance, Finding, Verdict

_STYLES: Final = {"passed": "green", "failed": "bold red", "not applicable": "bright_black"}


@dataclass(frozen=True)
class Checked:
    """One name, as what it was checked, and how that ended."""

    name: str
    kind: Kind
    distribution: str | None
    seconds: float
    report: Conformance | None
    error: str = ""
    """Why the suite could not run at all."""

    @property
    def passed(self) -> bool:
        """Whether the suite ran, and no test failed."""
        return self.report is not None and self.report.passed

    def count(self, verdict: Verdict) -> int:
        """How many tests ended so."""
        return 0 if self.report is None else len(self.report.of(verdict))


def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Methods or engines.", autocompletion=completion.names),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Check every installed plugin.")
    ] = False,
    kind: Annotated[
        Kind | None, typer.Option(help="Check as this kind alone; otherwise as each it has.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(help="Settings as JSON, where they do not follow from the method's schema."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run the framework's suites over a plugin, and say what each test found.

    A weighting is also checked as the aggregator that is made of it. The exit status is 1 if a
    test failed, or if a name cannot be loaded.
    """
    wanted = list(_wanted(names or [], everything, kind))
    settings = None if config is None else _settings(config)
    with _progress(len(wanted)) as progress:
        checked = [_checked(name, as_kind, settings, progress) for name, as_kind in wanted]
    if as_json:
        console.write_json([_as_json(one) for one in checked])
    elif len(checked) <= len(KINDS) and not everything:
        for one in checked:
            _print_report(console.output(), one)
    else:
        _print_summary(console.output(), checked)
    if not all(one.passed for one in checked):
        sys.exit(1)


def _wanted(
    names: Sequence[str], everything: bool, kind: Kind | None
) -> Iterator[tuple[str, Kind]]:
    """What is to be checked, and as what.

    :raises BadParameter: if nothing is, or if names are given together with ``--all``.
    :raises UnknownNameError: if nothing of that name is installed.
    """
    from jdframework import registry

    if everything == bool(names):
        raise typer.BadParameter("give one or more names, or --all", param_hint="NAMES")
    for name in names or registry.available(kind):
        found = [k for k in KINDS if discovery.catalogue().find(k, name)]
        if "weighting" in found and "aggregator" not in found:
            found.insert(1, "aggregator")
        chosen = [k for k in found if kind in (None, k)]
        if not chosen:
            registry.describe(name, kind)  # raises, and says what there is
        yield from ((name, k) for k in chosen)


def _settings(config: str) -> Mapping[str, Any]:
    try:
        found = json.loads(config)
    except ValueError as error:
        raise ConfigError(f"--config is not JSON ({error}): {config}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"--config needs an object like {{'c': 0.4}}, not {config}")
    return found


class _Bars:
    """One bar for the names, one for the cases of the present one."""

    def __init__(self, progress: Progress, names: int) -> None:
        self._progress = progress
        self._names = progress.add_task("", total=names)
        self._cases = progress.add_task("cases", total=None)

    def begin(self, name: str) -> None:
        self._progress.update(self._names, description=name)
        self._progress.reset(self._cases, total=None)

    def on_case(self, done: int, total: int) -> None:
        self._progress.update(self._cases, completed=done, total=total)

    def end(self) -> None:
        self._progress.advance(self._names)


@contextmanager
def _progress(names: int) -> Iterator[_Bars]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console.errors(), transient=True) as progress:
        yield _Bars(progress, names)


def _checked(name: str, kind: Kind, settings: Mapping[str, Any] | None, bars: _Bars) -> Checked:
    from jdframework.testing.conformance import conformance

    bars.begin(f"{name}, {kind}")
    start = time.perf_counter()
    report, error = None, ""
    try:
        report = conformance(kind, name, settings, bars.on_case)
    except LookupError as lacking:
        error = f"{lacking.args[0]} as --config"
    except JDError as refused:
        error = str(refused)
    bars.end()
    seconds = time.perf_counter() - start
    return Checked(name, kind, _distribution(name, kind), round(seconds, 2), report, error)


def _distribution(name: str, kind: Kind) -> str | None:
    catalogue = discovery.catalogue()
    found = catalogue.find(kind, name) or catalogue.find("weighting", name)
    return f"{found[0].distribution} {found[0].version}" if found[0].distribution else None


def _print_report(out: Console, one: Checked) -> None:
    head = Text.assemble((one.name, "bold"), f"  {one.kind}")
    head.append(f"  {one.distribution or 'registered by this program'}", "bright_black")
    out.print(head)
    if one.report is not None:
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column()
        for finding in sorted(one.report.findings, key=lambda f: list(_STYLES).index(f.verdict)):
            table.add_row(Text(finding.verdict, _STYLES[finding.verdict]), _line(finding))
        out.print(table)
    out.print(_verdict(one), end="\n\n")


def _line(finding: Finding) -> Text:
    times = f" ({finding.cases} cases)" if finding.cases > 1 else ""
    line = Text(f"{finding.promise}{times}")
    if finding.reason:
        line.append(f"\n{finding.reason}", _STYLES[finding.verdict])
    return line


def _verdict(one: Checked) -> Text:
    if one.report is None:
        return Text(f"not checked: {one.error}", _STYLES["failed"])
    counts = ", ".join(f"{one.count(verdict)} {verdict}" for verdict in _VERDICTS)
    return Text(f"{counts}, in {one.seconds:.1f} s", _STYLES["passed" if one.passed else "failed"])


_VERDICTS: Final[tuple[Verdict, ...]] = ("passed", "failed", "not applicable")


def _print_summary(out: Console, checked: Sequence[Checked]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("name", "kind", *_VERDICTS, "seconds"):
        table.add_column(heading, justify="left" if heading in ("name", "kind") else "right")
    for one in checked:
        counts = (str(one.count(verdict)) for verdict in _VERDICTS)
        style = "" if one.passed else _STYLES["failed"]
        table.add_row(one.name, one.kind, *counts, f"{one.seconds:.1f}", style=style)
    out.print(table)
    for one in checked:
        if one.error:
            out.print(Text(f"\n{one.name}, {one.kind}: {one.error}", _STYLES["failed"]))
        for finding in one.report.of("failed") if one.report else ():
            out.print(Text(f"\n{one.name}, {one.kind}: ", "bold") + _line(finding))
    failed = sum(not one.passed for one in checked)
    verdict = f"{failed} of {len(checked)} failed" if failed else f"all {len(checked)} conform"
    out.print(Text(f"\n{verdict}.", _STYLES["failed" if failed else "passed"]))


def _as_json(one: Checked) -> dict[str, Any]:
    shown = {"name": one.name, "kind": one.kind, "distribution": one.distribution}
    findings = [] if one.report is None else [asdict(finding) for finding in one.report.findings]
    return {
        **shown,
        "passed": one.passed,
        "seconds": one.seconds,
        "error": one.error,
        "findings": findings,
    }
