"""Logs each step of training to the file that JD_STEP_LOG names, one JSON object per line.

An observer is a module with functions marked ``@hookimpl``; each takes of its hook's arguments
those that it wants. Nothing else has to be written for it to be called in every training loop.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jdframework.descent.step import Step
from jdframework.hooks import hookimpl

VARIABLE = "JD_STEP_LOG"


@hookimpl
def jd_resolved(method: Any) -> None:
    """A method or an engine was made from a spec."""
    _write({"event": "resolved", "name": method.name, "kind": method.kind})


@hookimpl
def jd_step(step: Step) -> None:
    """A step of training is done."""
    _write(
        {
            "event": "step",
            "names": [str(name) for name in step.names],
            "losses": step.losses.tolist(),
            "weights": None if step.weights is None else step.weights.tolist(),
            "skipped": step.skipped,
            "engine": step.engine,
        }
    )


@hookimpl
def jd_fallback(name: str, reason: str) -> None:
    """An engine or a solver goes on in a slower way."""
    _write({"event": "fallback", "name": name, "reason": reason})


def _write(event: dict[str, Any]) -> None:
    target = os.environ.get(VARIABLE)
    if target:
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
