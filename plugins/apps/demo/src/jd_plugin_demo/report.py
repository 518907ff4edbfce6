"""``report.html`` and the numbers behind it."""

from __future__ import annotations

import csv
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import isnan, sqrt
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

import jdframework as jd
from jdframework.errors import JDError

from jd_plugin_demo import figures
from jd_plugin_demo.comparison import Comparison
from jd_plugin_demo.data import Digits
from jd_plugin_demo.model import TASKS, TwoDigits
from jd_plugin_demo.table import rows
from jd_plugin_demo.training import Result
from jd_plugin_report import theme
from jd_plugin_report.folder import prepare

_EXAMPLES: Final = 6


@dataclass(frozen=True)
class Written:
    """The files of one report."""

    report: Path
    results: Path
    curves: Path


@dataclass(frozen=True)
class Reading:
    """What one method made of one held-out picture."""

    method: str
    digits: tuple[int, int]
    is_right: tuple[bool, bool]


@dataclass(frozen=True)
class Example:
    """One held-out picture."""

    picture: str
    composition: str
    labels: tuple[int, int]
    readings: list[Reading]


def write(comparison: Comparison, folder: Path, command: str) -> Written:
    """Writes ``report.html``, ``results.csv`` and ``curves.csv``, over those of an earlier run.

    :param comparison: What to report.
    :param folder: Made if it is not there.
    :param command: The command line, for the report.
    :raises JDError: if a file cannot be written.
    """
    written = Written(folder / "report.html", folder / "results.csv", folder / "curves.csv")
    page = render(comparison, command)
    prepare(folder)
    try:
        written.report.write_text(page, encoding="utf-8")
        _write_csv(written.results, (dict(row) for row in rows(comparison.results)))
        _write_csv(written.curves, _curve_rows(comparison))
    except OSError as error:
        raise JDError(f"the report cannot be written to {folder}: {error.strerror}") from error
    return written


def render(comparison: Comparison, command: str) -> str:
    """The whole page as one string that needs nothing else, not even a network.

    :param comparison: What to report.
    :param command: The command line that made it.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("jd_plugin_demo"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    return environment.get_template("report.html").render(_contents(comparison, command))


def examples(digits: Digits, results: Sequence[Result]) -> list[Example]:
    """The first held-out picture of two unlike digits, and the first that some method read wrongly.

    :param digits: The data.
    :param results: The methods' readings.
    """
    wrong = torch.zeros(len(digits.test), dtype=torch.bool)
    for result in results:
        wrong |= (result.predictions != digits.test.labels).any(dim=1)
    unlike = digits.test.labels[:, 0] != digits.test.labels[:, 1]
    first = int(unlike.nonzero()[0])
    chosen = [first, *(int(index) for index in wrong.nonzero().flatten() if index != first)]
    return [_example(digits, results, index) for index in chosen[:_EXAMPLES]]


def _contents(comparison: Comparison, command: str) -> dict[str, Any]:
    results, setting = comparison.results, comparison.setting
    errors = [_standard_errors(result, setting.test_pairs) for result in results]
    network = TwoDigits(setting.seed)
    limit = figures.largest_cosine(results)
    return {
        "count": _in_words(len(results)),
        "command": command,
        "setting": setting,
        "scans": _scan_counts(comparison.digits),
        "parameters": {
            "trunk": _size(network.trunk),
            "heads": _size(network.heads),
        },
        "tasks": TASKS,
        "rows": _table(results),
        "methods": [result.contestant.method for result in results],
        "findings": list(_findings(results, setting.test_pairs)),
        "accuracy": figures.accuracy(results, errors),
        "losses": [figures.loss(results, task) for task in range(len(TASKS))],
        "conflicts": [
            figures.conflict(result, index, limit) for index, result in enumerate(results)
        ],
        "weights": list(filter(None, map(figures.weights, results, range(len(results))))),
        "examples": examples(comparison.digits, results),
        "versions": _versions(results),
        "palette": theme.PALETTE.values(),
    }


def _table(results: Sequence[Result]) -> list[dict[str, Any]]:
    fastest = min(result.seconds_per_step for result in results)
    return [
        {
            **row,
            "engine": result.engine,
            "relative_cost": row["seconds_per_step"] / fastest,
            "colour": theme.series_look(index).colour.variable,
            "is_solid": theme.series_look(index).dashes == theme.DASHES[0],
        }
        for index, (row, result) in enumerate(zip(rows(results), results, strict=True))
    ]


def _findings(results: Sequence[Result], pairs: int) -> Iterator[str]:
    ranked = sorted(results, key=lambda result: result.mean_accuracy, reverse=True)
    best, worst = ranked[0], ranked[-1]
    conflict = sum(result.conflict for result in results) / len(results)
    if best is worst:
        yield f"{best.contestant.name} read {_percent(best.mean_accuracy)} of the digits correctly."
    else:
        margin = 2 * sqrt(2) * _mean_standard_error(best, pairs)
        gap = best.mean_accuracy - worst.mean_accuracy
        yield (
            f"{best.contestant.name} read the most digits correctly "
            f"({_percent(best.mean_accuracy)}), {worst.contestant.name} the fewest "
            f"({_percent(worst.mean_accuracy)})."
        )
        yield (
            f"That gap of {100 * gap:.1f} points is {'larger' if gap > margin else 'no larger'} "
            f"than what chance in the choice of the pictures explains ({100 * margin:.1f} points). "
            f"It is one run all the same: another seed may put the methods into another order."
        )
    yield (
        f"The two tasks wanted opposite changes of the shared trunk in {_percent(conflict, 0)} of "
        f"the measured steps."
    )


def _standard_errors(result: Result, pairs: int) -> tuple[float, ...]:
    return tuple(sqrt(share * (1 - share) / pairs) for share in result.accuracies)


def _mean_standard_error(result: Result, pairs: int) -> float:
    return sqrt(sum(error**2 for error in _standard_errors(result, pairs))) / len(TASKS)


def _example(digits: Digits, results: Sequence[Result], index: int) -> Example:
    left, right = (digits.scans.images[source] for source in digits.test.sources[index])
    labels = _two(digits.test.labels[index])
    readings = []
    for result in results:
        read = _two(result.predictions[index])
        is_right = (read[0] == labels[0], read[1] == labels[1])
        readings.append(Reading(result.contestant.name, read, is_right))
    return Example(
        figures.picture(digits.test.images[index]),
        figures.composition(left, right),
        labels,
        readings,
    )


def _two(digits: Tensor) -> tuple[int, int]:
    return int(digits[0]), int(digits[1])


def _scan_counts(digits: Digits) -> dict[str, int]:
    return {
        "train": len(torch.unique(digits.train.sources)),
        "test": len(torch.unique(digits.test.sources)),
    }


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _versions(results: Sequence[Result]) -> dict[str, str]:
    methods = [result.contestant.method for result in results]
    plugins = {m.distribution: m.version or "" for m in methods if m.distribution is not None}
    return {
        "jdframework": jd.__version__,
        **plugins,
        "torch": str(torch.__version__),
        "scikit-learn": version("scikit-learn"),
        "matplotlib": version("matplotlib"),
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _curve_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for result in comparison.results:
        curve = result.curve
        for step in range(comparison.setting.steps):
            yield {
                "method": result.contestant.name,
                "step": step + 1,
                "epoch": 1 + step // comparison.setting.steps_per_epoch,
                **_by_task("loss", curve.losses[step]),
                **_by_task("weight", curve.weights[step]),
                "cosine": _cell(curve.cosines[step]),
                "seconds": _cell(curve.seconds[step]),
            }


def _by_task(what: str, values: Tensor) -> dict[str, str]:
    return {f"{what}_{task}": _cell(value) for task, value in zip(TASKS, values, strict=True)}


def _cell(value: Tensor) -> str:
    """Nothing where there is no value."""
    number = float(value)
    return "" if isnan(number) else f"{number:.6g}"


def _write_csv(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    found = list(lines)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(found[0]))
        writer.writeheader()
        writer.writerows(found)


def _in_words(number: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[number] if number < len(words) else str(number)


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"
