"""What ``jd doctor`` examines. It imports every plugin, and so torch."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

import jdframework as jd
from jdframework import registry
from jdframework.cli import inventory
from jdframework.cli.inventory import Entry
from jdframework.protocols.entry_points import hook_entry_points

_TOLERANCE: Final = 1e-9
"""The self-check runs in float64, where an exact engine errs by about 1e-15."""

_WRONG: Final = frozenset({"broken", "clash", "wrong"})


@dataclass(frozen=True)
class Finding:
    """The state of one thing."""

    name: str
    version: str | None
    status: str
    """``ok``, ``broken``, ``clash``, ``blocked``, ``wrong``, ``not checked`` or ``missing``."""
    detail: str
    """The reason if it is not ok; otherwise what there is to know."""


@dataclass(frozen=True)
class Checkup:
    """Everything that was found."""

    environment: dict[str, Any]
    plugins: list[Finding]
    observers: list[Finding]
    engines: list[Finding]
    optional: list[Finding]

    def wrong(self) -> Iterator[Finding]:
        """What is installed and cannot be used."""
        for finding in (*self.plugins, *self.observers, *self.engines):
            if finding.status in _WRONG:
                yield finding

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.wrong())


def examine() -> Checkup:
    """Examines this installation."""
    return Checkup(
        environment=_environment(),
        plugins=[_plugin(entry) for entry in inventory.entries()],
        observers=[_observer(entry) for entry in hook_entry_points()],
        engines=[_engine(name) for name in _working_engines()],
        optional=[_solvers()],
    )


def _environment() -> dict[str, Any]:
    return {
        "jdframework": jd.__version__,
        "torch": torch.__version__,
        "Python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "devices": list(_devices()),
    }


def _devices() -> Iterator[str]:
    yield f"CPU ({torch.get_num_threads()} threads)"
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield f"cuda:{index} ({device.name}, {device.total_memory / 2**30:.0f} GiB)"
    if torch.backends.mps.is_available():
        yield "mps"


def _plugin(entry: Entry) -> Finding:
    status, reason = entry.status, entry.reason
    if status == "ok":
        reason = _reason_not_to_resolve(entry)
    return Finding(
        name=entry.name,
        version=f"{entry.distribution or 'this program'} {entry.version or ''}".strip(),
        status="broken" if status == "ok" and reason else status,
        detail=reason or ", ".join(entry.kinds),
    )


def _reason_not_to_resolve(entry: Entry) -> str:
    for kind in entry.kinds:
        try:
            registry.resolve(kind, entry.name)
        except jd.JDError as error:
            return str(error)
    return ""


def _observer(entry_point: importlib.metadata.EntryPoint) -> Finding:
    reason = _reason_to_fail(entry_point.load)
    dist = getattr(entry_point, "dist", None)
    return Finding(
        name=entry_point.name,
        version=None if dist is None else f"{dist.name} {dist.version}",
        status="broken" if reason else "ok",
        detail=reason or "observer",
    )


def _reason_to_fail(act: Callable[[], object]) -> str:
    try:
        act()
    except Exception as error:  # noqa: BLE001  whatever foreign code raises is a finding
        return f"{type(error).__name__}: {error}"
    return ""


def _working_engines() -> list[str]:
    return [
        entry.name
        for entry in inventory.entries("engine")
        if entry.status == "ok" and not _reason_not_to_resolve(entry)
    ]


def _engine(name: str) -> Finding:
    try:
        found = _self_check(name)
    except jd.UnsupportedModelError as refusal:
        return Finding(name, None, "not checked", str(refusal))
    except Exception as error:  # noqa: BLE001  whatever it raises, the engine does not work
        return Finding(name, None, "broken", f"{type(error).__name__}: {error}")
    status = "ok" if found <= _TOLERANCE else "wrong"
    return Finding(name, None, status, f"relative error {found:.1e} in float64 on the CPU")


def _self_check(name: str) -> float:
    """The engine's own check on one small classifier, one objective per instance."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    inputs = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (5,), generator=generator)
    with closing(jd.engine(name, model, batch_dim=0)) as engine:
        losses = nn.functional.cross_entropy(model(inputs), labels, reduction="none")
        return engine.verify(losses)


def _solvers() -> Finding:
    try:
        import qpsolvers
    except ImportError:
        return Finding(
            "qpsolvers",
            None,
            "missing",
            'only needed to choose another solver by name: pip install "jdframework[solvers]"',
        )
    found = ", ".join(sorted(qpsolvers.available_solvers)) or "no solver: pip install quadprog"
    return Finding("qpsolvers", qpsolvers.__version__, "ok", found)
