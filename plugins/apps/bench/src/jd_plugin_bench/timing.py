"""How everything is measured: side by side in one process, in turn, with the median to quote.

These machines are noisy, so no absolute time is worth anything: contestants run A B C A B C …, and
what is reported is the median of each, its spread, and the ratio of medians.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import jdframework


@dataclass(frozen=True)
class Timing:
    """The times of one contestant, in seconds."""

    median: float
    fastest: float
    slowest: float
    rounds: int

    @property
    def milliseconds(self) -> str:
        """The median and the spread, for a table."""
        return f"{1e3 * self.median:.3g} ({1e3 * self.fastest:.3g} to {1e3 * self.slowest:.3g})"


@dataclass(frozen=True)
class Ratio:
    """How many times as long one contestant takes as another, compared within each round."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.lowest:.2g} to {self.highest:.2g})"


def ratio(slower: Sequence[float], faster: Sequence[float]) -> Ratio:
    """Of the seconds of two contestants, round by round."""
    ratios = [a / b for a, b in zip(slower, faster, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def interleaved(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    prepare: Callable[[], object] = lambda: None,
    warm_up: int = 2,
) -> dict[str, Timing]:
    """Runs the contestants in turn.

    :param contestants: By name; each call is one measurement.
    :param rounds: How many measurements of each.
    :param prepare: Called before each measurement, and not timed.
    :param warm_up: How many rounds are thrown away first.
    """
    seconds = measured(contestants, rounds, prepare, warm_up)
    return {name: summary(times) for name, times in seconds.items()}


def measured(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    prepare: Callable[[], object] = lambda: None,
    warm_up: int = 2,
) -> dict[str, list[float]]:
    """Likewise, but gives the seconds of every round."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(warm_up + rounds):
        for name, run in contestants.items():
            prepare()
            synchronise()
            start = time.perf_counter()
            run()
            synchronise()
            if round_ >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(times: Sequence[float]) -> Timing:
    """What is kept of some measurements."""
    return Timing(statistics.median(times), min(times), max(times), len(times))


def synchronise() -> None:
    """Waits for the device, so that a time is that of the work and not of its submission."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine(device: str) -> dict[str, Any]:
    """What the figures belong to."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if device != "cpu" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "jdframework": jdframework.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
