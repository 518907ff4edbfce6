"""What stands in ``benchmarks/results``, in words for a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
_TIMING: Final = {"median", "fastest", "slowest", "rounds"}
_RATIO: Final = {"median", "lowest", "highest"}


@dataclass(frozen=True)
class Result:
    """One file of figures."""

    path: Path
    benchmark: str
    """The script's name."""
    device: str
    machine: Mapping[str, Any]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    """By the key in the file."""

    @property
    def plot(self) -> Path | None:
        """The picture beside it, if there is one."""
        picture = self.path.with_suffix(".svg")
        return picture if picture.exists() else None


def results(folder: Path = RESULTS) -> list[Result]:
    """Every file of figures, by name.

    :param folder: Where they are.
    """
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def cell(value: Any) -> str:
    """One figure as text: times in milliseconds and ratios with their spread.

    :param value: A number, a text, a measured time or ratio, or a list of these.

    >>> cell({"median": 1.5, "lowest": 1.25, "highest": 2.0})
    '1.5 (1.2 to 2)'
    >>> cell({"median": 0.0015, "fastest": 0.001, "slowest": 0.002, "rounds": 3})
    '1.5 (1 to 2) ms'
    """
    if isinstance(value, Mapping):
        return _measured(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))
    return "" if value is None else str(value)


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of all columns, in the order of their first use.

    :param rows: They may lack some.
    """
    return list(dict.fromkeys(name for row in rows for name in row))


def where(machine: Mapping[str, Any]) -> str:
    """The machine and the versions in a line.

    :param machine: What a file of figures says of them.

    >>> where({"date": "2026-11-21", "device": "AMD EPYC", "threads": 2, "torch": "2.13.0"})
    '2026-11-21, AMD EPYC, 2 threads, torch 2.13.0'
    """
    forms = {"device": "{}", "date": "{}", "cores": "{} cores", "threads": "{} threads"}
    said = [forms.get(name, f"{name} {{}}").format(cell(value)) for name, value in machine.items()]
    return ", ".join(said)


def _measured(value: Mapping[str, Any]) -> str:
    if value.keys() == _TIMING:
        middle, *ends = (1e3 * value[name] for name in ("median", "fastest", "slowest"))
        return f"{_number(middle)} ({' to '.join(map(_number, ends))}) ms"
    if value.keys() == _RATIO:
        ends = [_number(value[name], 2) for name in ("lowest", "highest")]
        return f"{_number(value['median'])} ({' to '.join(ends)})"
    return ", ".join(f"{name}: {cell(each)}" for name, each in value.items())


def _number(value: float, digits: int = 3) -> str:
    """Without an exponent where a reader can do without."""
    return f"{float(f'{value:.{digits}g}'):g}"


def _read(path: Path) -> Result:
    content = json.loads(path.read_text("utf-8"))
    name, _, device = path.stem.rpartition("-")
    tables = {key: value for key, value in content.items() if _is_table(value)}
    machine = content.get("machine", {})
    return Result(path, content.get("benchmark", name), device, machine, tables)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)
