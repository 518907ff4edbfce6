"""What the kernel costs by itself: starting, listing, resolving, and one step of Descent.

Start-up is measured in fresh processes, in turn with what they are compared with; a step in one
process, in turn with the bare engine, on a model whose step takes a few milliseconds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from reporting import arguments, progress, show, write
from torch import nn

import jdframework as jd

from jd_plugin_bench.timing import Timing, interleaved, summary

_MORE: Final = 60
_RESOLVE: Final = """
import time, torch, numpy, scipy, pydantic, jaxtyping, pluggy
import jdframework as jd
import jd_plugin_mgda
start = time.perf_counter()
jd.weighting("mgda")
print(time.perf_counter() - start)
"""
"""The time beyond the plugin's own imports, printed by the process itself."""


def main() -> None:
    """Measures, prints, and writes JSON."""
    given = arguments(__doc__)
    rounds = 7 if given.quick else 15
    with progress(4) as advance:
        advance("starting")
        bare, imported = _processes(["-c", "pass"], ["-c", "import jdframework"], rounds)
        advance("listing")
        _, listed = _processes(["-c", "pass"], [str(_jd()), "list"], rounds)
        with TemporaryDirectory() as folder:
            _fabricate(Path(folder))
            more = os.environ | {"PYTHONPATH": folder}
            _, listed_more = _processes(["-c", "pass"], [str(_jd()), "list"], rounds, more)
        advance("resolving")
        resolved = summary([_printed(_RESOLVE) for _ in range(rounds)])
        advance("stepping")
        steps = _steps(given.device, 20 * rounds)
    extra = imported.median - bare.median
    rows: list[Mapping[str, Any]] = [
        _row("import jdframework, over bare Python", imported, f"{1e3 * extra:.1f} ms", "50 ms"),
        _row("jd list, the whole process", listed, f"{1e3 * listed.median:.0f} ms", "300 ms"),
        _row(
            f"the same with {_MORE} more plugins installed",
            listed_more,
            f"{1e3 * listed_more.median:.0f} ms",
            "300 ms",
        ),
        _row(
            "first jd.weighting('mgda'), beyond the plugin's imports",
            resolved,
            f"{1e3 * resolved.median:.1f} ms",
            "30 ms",
        ),
        *steps,
    ]
    show("Kernel overhead", [{k: _text(v) for k, v in row.items()} for row in rows])
    print(f"wrote {write('overhead', given, rows)}")


def _row(what: str, timing: Timing, figure: str, limit: str) -> dict[str, Any]:
    return {"what": what, "time in ms": timing, "figure": figure, "at most": limit}


def _text(value: Any) -> str:
    return value.milliseconds if isinstance(value, Timing) else str(value)


def _fabricate(folder: Path) -> None:
    """What ``pip install`` leaves of many plugins: their metadata, and a module each."""
    for number in range(_MORE):
        info = folder / f"jd_plugin_more_{number}-1.0.dist-info"
        info.mkdir()
        head = f"Metadata-Version: 2.4\nName: jd-plugin-more-{number}\nVersion: 1.0\n"
        (info / "METADATA").write_text(f"{head}Summary: One more weighting\n", "utf-8")
        entry = f"[jdframework.weightings]\nmore-{number} = jd_plugin_more_{number}:Method\n"
        (info / "entry_points.txt").write_text(entry, "utf-8")
        (folder / f"jd_plugin_more_{number}.py").write_text("raise AssertionError\n", "utf-8")


def _processes(
    first: list[str],
    second: list[str],
    rounds: int,
    environment: Mapping[str, str] = os.environ,
) -> tuple[Timing, Timing]:
    """Two programs in turn, each in a fresh interpreter."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for arguments_, seconds in zip((first, second), times, strict=True):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, *arguments_],
                check=True,
                stdout=subprocess.DEVNULL,
                env=_plain(environment),
            )
            seconds.append(time.perf_counter() - start)
    return summary(times[0][1:]), summary(times[1][1:])


def _printed(program: str) -> float:
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=_plain(os.environ)
    )
    return float(done.stdout)


def _plain(environment: Mapping[str, str]) -> dict[str, str]:
    return {**environment, "COLUMNS": "160", "NO_COLOR": "1"}


def _jd() -> Path:
    return Path(sys.executable).with_name("jd")


def _steps(device: str, rounds: int) -> list[Mapping[str, Any]]:
    """One step of Descent beside the bare engine: the same backward pass, weights and update."""
    torch.manual_seed(0)
    layers = (nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 4))
    model = nn.Sequential(*layers).to(device)
    x = torch.randn(128, 64, device=device)
    weighting = jd.weighting("mgda")
    engine = jd.engine("autojac", model)
    descent = jd.Descent(model, weighting, engine=engine)
    losses: list[torch.Tensor] = []

    def prepare() -> None:
        model.zero_grad()
        losses[:] = [model(x).square().mean(0)]

    times = interleaved(
        {
            "engine.backward": lambda: engine.backward(losses[0], weighting),
            "Descent.backward": lambda: descent.backward(losses[0]),
        },
        rounds,
        prepare,
        warm_up=20,
    )
    bare, whole = times["engine.backward"], times["Descent.backward"]
    share = whole.median / bare.median - 1
    return [
        _row("a step of the bare engine", bare, "", ""),
        _row("the same step by Descent", whole, f"{100 * share:+.1f} %", "+3 % at 5 ms"),
        _row("the cost of telling no observer", _untold(), _each(), "nothing to measure"),
    ]


def _untold(calls: int = 10_000) -> Timing:
    """Ten thousand calls of a hook that nobody observes."""
    times = []
    for _ in range(7):
        start = time.perf_counter()
        for _ in range(calls):
            jd.hooks.call("jd_step", step=None)
        times.append(time.perf_counter() - start)
    return summary(times)


def _each(calls: int = 10_000) -> str:
    return f"{1e9 * statistics.median([_untold(calls).median]) / calls:.0f} ns a call"


if __name__ == "__main__":
    main()
