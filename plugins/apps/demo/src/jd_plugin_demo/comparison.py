"""All methods on the same task, in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch

from jd_plugin_demo.data import Digits, overlaid_digits
from jd_plugin_demo.training import Result, Run, Setting
from jd_plugin_report.contestants import Contestant

OnProgress: TypeAlias = Callable[[str, int], None]
"""Called with a method's name and how many steps it has taken since the last call."""

_TURN: Final = 20
"""Steps that a method takes before the next one's turn: whatever else the machine does meanwhile
then slows all of them alike."""


@dataclass(frozen=True)
class Comparison:
    """What was done, and what came out."""

    setting: Setting
    digits: Digits
    results: list[Result]


def compare(methods: Sequence[Contestant], setting: Setting, on_progress: OnProgress) -> Comparison:
    """Trains the same network with each method.

    :param methods: From :func:`~jd_plugin_report.contestants.contestants`.
    :param setting: How every method trains.
    :param on_progress: Called while they train.
    :raises JDError: if a step fails, naming the method.
    """
    digits = overlaid_digits(setting.train_pairs, setting.test_pairs, setting.seed)
    with _one_thread(), ExitStack() as open_runs:
        runs = [open_runs.enter_context(closing(Run(m, digits, setting))) for m in methods]
        for done in range(0, setting.steps, _TURN):
            steps = min(_TURN, setting.steps - done)
            for run in runs:
                run.advance(steps)
                on_progress(run.contestant.name, steps)
        return Comparison(setting, digits, [run.result() for run in runs])


@contextmanager
def _one_thread() -> Iterator[None]:
    """The same digits however many cores there are; steps this small gain nothing from two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
