"""A picture for each table of ``results/``: what a step costs, and how it grows.

Not measured anew: it reads the JSON that the other scripts wrote, and writes SVG beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from reporting import RESULTS

OURS, THEIRS, PLAIN = "#3f51b5", "#e8710a", "#757575"
_Rows = Sequence[Mapping[str, Any]]


def main() -> None:
    """Draws what there are results for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="whose results: cpu or cuda")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the JSON")
    given = parser.parse_args()
    mpl.rcParams |= {"svg.hashsalt": "jdframework", "font.size": 9, "axes.spines.top": False}
    mpl.rcParams |= {"axes.spines.right": False, "figure.constrained_layout.use": True}
    for name, draw in _PLOTS.items():
        source = given.results / f"{name}-{given.device}.json"
        if source.exists():
            content = json.loads(source.read_text("utf-8"))
            figure = draw(content["rows"])
            machine = content["machine"]
            figure.supxlabel(
                f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}",
                fontsize=7,
                color=PLAIN,
            )
            target = source.with_suffix(".svg")
            figure.savefig(target, metadata={"Date": None})
            plt.close(figure)
            print(f"wrote {target}")


def _instances(rows: _Rows) -> Figure:
    labels = [f"{row['model']}, {row['batch']}" for row in rows]
    figure, (time, memory) = plt.subplots(1, 2, figsize=(10, 0.45 * len(rows) + 1.2), sharey=True)
    ours = [row["autogram / ordinary"] for row in rows]
    theirs = [
        own["median"] * row["torchjd / autogram"]["median"]
        for own, row in zip(ours, rows, strict=True)
    ]
    _bars(time, labels, [("autogram", _medians(ours), OURS), ("torchjd autogram", theirs, THEIRS)])
    _targets(time, [row["at most"] for row in rows])
    time.set(
        title="Time of a step with one objective per instance, in ordinary steps", xscale="log"
    )
    _bars(memory, labels, [("autogram", [row["memory / ordinary"] for row in rows], OURS)])
    _targets(memory, [row["memory at most"] for row in rows])
    memory.set(title="Peak memory, in ordinary steps")
    time.legend(frameon=False)
    return figure


def _tasks(rows: _Rows) -> Figure:
    trunks = list(dict.fromkeys(row["trunk"] for row in rows))
    figure, axes = plt.subplots(1, len(trunks), figsize=(10, 3.4), squeeze=False)
    for axis, trunk in zip(axes[0], trunks, strict=True):
        chosen = [row for row in rows if row["trunk"] == trunk]
        labels = [f"{row['tasks']} tasks" for row in chosen]
        series = [
            ("autogram", _medians([row["autogram / ordinary"] for row in chosen]), OURS),
            (
                "torchjd, vmap",
                _medians([row["torchjd, vmap / ordinary"] for row in chosen]),
                THEIRS,
            ),
            (
                "torchjd, one by one",
                _medians([row["torchjd, one by one / ordinary"] for row in chosen]),
                "#f5b27a",
            ),
        ]
        _bars(axis, labels, series)
        _targets(axis, [row["at most"] for row in chosen])
        axis.set(title=f"Time of a multi-task step, {trunk} trunk, in ordinary steps", xscale="log")
    axes[0][0].legend(frameon=False)
    return figure


def _scaling(rows: _Rows) -> Figure:
    measured = [row for row in rows if "ms" in row]
    sweeps = list(dict.fromkeys(row["sweep"] for row in measured))
    figure, axes = plt.subplots(2, len(sweeps), figsize=(10, 6), squeeze=False)
    colours = {"ordinary": PLAIN, "autogram": OURS, "torchjd autogram": THEIRS}
    for column, sweep in enumerate(sweeps):
        for line, (key, what) in enumerate((("ms", "ms"), ("MiB", "MiB at the peak"))):
            axis = axes[line][column]
            for name, colour in colours.items():
                chosen = [r for r in measured if (r["sweep"], r["contestant"]) == (sweep, name)]
                sizes = [row["size"] for row in chosen]
                exponent = _exponent(rows, sweep, name, "time" if key == "ms" else "memory")
                label = f"{name}: size^{exponent:.2g}"
                axis.plot(
                    sizes, [row[key] for row in chosen], "o-", color=colour, label=label, ms=3
                )
            axis.set(xscale="log", yscale="log", xlabel=sweep, ylabel=what)
            _plain_ticks(axis, sizes)
            axis.legend(frameon=False, fontsize=7)
    return figure


def _weightings(rows: _Rows) -> Figure:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    columns = 3
    lines = -(-len(methods) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(10, 2.7 * lines), squeeze=False)
    for axis in axes.flat[len(methods) :]:
        axis.remove()
    for axis, method in zip(axes.flat, methods, strict=False):
        for kind, style in (("mild", "o-"), ("hard", "o--")):
            chosen = [row for row in rows if (row["method"], row["J"]) == (method, kind)]
            for key, colour in (("ours", OURS), ("torchjd", THEIRS)):
                waited_for = [row for row in chosen if row[key] is not None]
                sizes = [row["m"] for row in waited_for]
                times = [1e3 * row[key]["median"] for row in waited_for]
                axis.plot(sizes, times, style, color=colour, label=f"{key}, {kind}", ms=3)
        axis.set(title=method, xscale="log", yscale="log", xlabel="objectives", ylabel="ms")
        _plain_ticks(axis, sizes)
    axes[0][0].legend(frameon=False, fontsize=7)
    return figure


def _parts(rows: _Rows) -> Figure:
    labels = [f"{row['model']}, {row['batch']}" for row in rows]
    figure, axis = plt.subplots(figsize=(10, 0.4 * len(rows) + 1.4))
    left = [0.0] * len(rows)
    colours = {
        "forward": "#9e9e9e",
        "to the layers": "#bdbdbd",
        "update": "#9fa8da",
        "hooks": "#e8710a",
        "Gramian": OURS,
    }
    for part, colour in colours.items():
        widths = [max(row[part], 0.0) for row in rows]  # a difference of two noisy times
        axis.barh(labels, widths, 0.7, left, color=colour, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axis.axvline(1, color=PLAIN, lw=0.8)
    axis.invert_yaxis()
    axis.set(title="The parts of an instance-wise step, in ordinary steps")
    axis.legend(frameon=False, ncols=len(colours), loc="upper center", bbox_to_anchor=(0.5, -0.08))
    return figure


def _bars(
    axis: Axes, labels: Sequence[str], series: Sequence[tuple[str, Sequence[float], str]]
) -> None:
    height = 0.8 / len(series)
    for number, (name, values, colour) in enumerate(series):
        places = [i + (number - (len(series) - 1) / 2) * height for i in range(len(labels))]
        bars = axis.barh(places, values, height, color=colour, label=name)
        axis.bar_label(bars, fmt="%.3g", padding=2, fontsize=7)
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.axvline(1, color=PLAIN, lw=0.8)
    axis.margins(x=0.12)


def _plain_ticks(axis: Axes, sizes: Sequence[int]) -> None:
    """A tick for each size: the logarithm's own labels overlap."""
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.xaxis.minorticks_off()


def _targets(axis: Axes, targets: Sequence[float | None]) -> None:
    for place, target in enumerate(targets):
        if target is not None:
            axis.plot([target] * 2, [place - 0.4, place + 0.4], color="black", lw=1.2, ls=":")


def _medians(ratios: Sequence[Mapping[str, float]]) -> list[float]:
    return [ratio["median"] for ratio in ratios]


def _exponent(rows: _Rows, sweep: str, contestant: str, what: str) -> float:
    key = f"exponent of {what}"
    found = (
        r[key] for r in rows if key in r and (r["sweep"], r["contestant"]) == (sweep, contestant)
    )
    return float(next(found))


_PLOTS: Final[dict[str, Callable[[_Rows], Figure]]] = {
    "instance_step": _instances,
    "breakdown": _parts,
    "task_step": _tasks,
    "scaling": _scaling,
    "weightings": _weightings,
}


if __name__ == "__main__":
    main()
