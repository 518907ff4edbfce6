"""The report's pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from jd_plugin_demo.data import HEIGHT, SCAN_SIZE, SHIFT_DOWN, SHIFT_RIGHT, WIDTH
from jd_plugin_demo.labels import spread
from jd_plugin_demo.model import TASKS
from jd_plugin_demo.smoothing import smoothed, thinned
from jd_plugin_demo.training import Result
from jd_plugin_report import theme
from jd_plugin_report.theme import DASHES, PALETTE, STYLE, Look, series_look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

_WIDE: Final = (5.4, 3.4)
_LOW: Final = (5.4, 2.5)
_LABEL_GAP: Final = 0.185
"""Between two labels, in inches."""
_MARGINS: Final = 0.95
"""Above and below the axes together, in inches."""


def loss(results: Sequence[Result], task: int) -> str:
    """The loss of one task over the steps, one smoothed curve per method over a faint raw one."""
    size = (_WIDE[0], max(_WIDE[1], _MARGINS + _LABEL_GAP * len(results)))
    with _axes(size, right=0.79) as (figure, axes):
        axes.set_title(f"Loss of the {TASKS[task]} digit")
        axes.set_ylabel("cross-entropy (nats, log scale)")
        axes.set_xlabel("training step")
        curves = [_numbers(result.curve.losses[:, task]) for result in results]
        _logarithmic(axes, curves)
        looks = [series_look(index) for index in range(len(results))]
        for curve, look in zip(curves, looks, strict=True):
            _draw(axes, curve, look)
        axes.set_xlim(0, len(curves[0]))
        _name_ends(axes, curves, [result.contestant.name for result in results], looks)
        return theme.svg(
            figure, f"loss-{TASKS[task]}", f"Loss of the {TASKS[task]} digit over the steps"
        )


def conflict(result: Result, index: int, limit: float) -> str:
    """The cosine between the two tasks' gradients over the steps, for one method.

    :param result: The method's.
    :param index: The method's place, which gives its colour.
    :param limit: The vertical axis ends there, on both sides.
    """
    name = result.contestant.name
    cosines = _numbers(result.curve.cosines)
    measured = np.flatnonzero(~np.isnan(cosines))
    with _axes(_LOW) as (figure, axes):
        axes.set_title(f"{name}: {result.conflict:.0%} of the steps in conflict")
        axes.set_ylabel("cosine")
        axes.set_xlabel("training step")
        axes.set_ylim(-limit, limit)
        axes.set_xlim(0, len(cosines))
        axes.axhspan(-limit, 0, color=PALETTE["muted"].stand_in, alpha=0.08, linewidth=0)
        axes.axhline(0, color=PALETTE["muted"].stand_in, linewidth=0.8)
        colour = series_look(index).colour.stand_in
        axes.plot(measured, cosines[measured], ".", color=colour, alpha=0.35, markersize=3)
        axes.plot(measured, smoothed(cosines[measured]), color=colour, linewidth=2)
        axes.text(0.98, 0.05, "in conflict", transform=axes.transAxes, ha="right", **_quiet())
        return theme.svg(
            figure, f"conflict-{index}", f"Cosine between the two gradients over the steps, {name}"
        )


def largest_cosine(results: Sequence[Result]) -> float:
    """The largest measured absolute value, rounded up to tenths."""
    measured = np.concatenate([_numbers(result.curve.cosines) for result in results])
    return float(np.ceil(10 * np.nanmax(np.abs(measured))) / 10)


def weights(result: Result, index: int) -> str:
    """The weight of each task over the steps, for one method; empty if it has no weights."""
    recorded = _numbers(result.curve.weights)
    if np.isnan(recorded).all():
        return ""
    name = result.contestant.name
    with _axes(_LOW, right=0.83) as (figure, axes):
        axes.set_title(name)
        axes.set_ylabel("weight")
        axes.set_xlabel("training step")
        axes.set_xlim(0, len(recorded))
        curves = list(recorded.T)
        looks = [Look(PALETTE[label], DASHES[task]) for task, label in enumerate(TASKS)]
        for curve, look in zip(curves, looks, strict=True):
            _draw(axes, curve, look)
        axes.set_ylim(min(0.0, float(recorded.min())), 1.08 * float(recorded.max()))
        _name_ends(axes, curves, TASKS, looks)
        return theme.svg(
            figure, f"weights-{index}", f"Weights of the two tasks over the steps, {name}"
        )


def accuracy(results: Sequence[Result], standard_errors: Sequence[Sequence[float]]) -> str:
    """The held-out accuracy of each task and method, with twice its standard error."""
    size = (_WIDE[0], 1.1 + 0.42 * len(results))
    with _axes(size, left=0.2, right=0.95) as (figure, axes):
        axes.set_title("Held-out accuracy")
        axes.set_xlabel("pictures read correctly (%)")
        rows = np.arange(len(results))[::-1]
        for task, label in enumerate(TASKS):
            axes.errorbar(
                [100 * result.accuracies[task] for result in results],
                rows + (0.14 if task == 0 else -0.14),
                xerr=[200 * errors[task] for errors in standard_errors],
                fmt="o" if task == 0 else "s",
                color=PALETTE[label].stand_in,
                markersize=6,
                elinewidth=1.5,
                label=label,
            )
        axes.set_yticks(rows, [result.contestant.name for result in results])
        axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"].stand_in)
        axes.set_ylim(-0.6, len(results) - 0.4)
        axes.grid(axis="x", color=PALETTE["line"].stand_in, linewidth=0.6)
        axes.set_axisbelow(True)
        return theme.svg(figure, "accuracy", "Held-out accuracy of each method")


def picture(image: Tensor) -> str:
    """What the network sees, as a PNG in a data address.

    :param image: ``[1, 10, 12]``, brightness 0 to 1.
    """
    return _png(np.repeat(_numbers(image[0])[:, :, None], 3, axis=2))


def composition(left: Tensor, right: Tensor) -> str:
    """The two scans ``[8, 8]`` in two colours where they lie in the picture, likewise."""
    canvas = np.zeros((HEIGHT, WIDTH, 3))
    canvas[:SCAN_SIZE, :SCAN_SIZE] += _numbers(left)[:, :, None] * _rgb("left")
    canvas[SHIFT_DOWN:, SHIFT_RIGHT:] += _numbers(right)[:, :, None] * _rgb("right")
    return _png(canvas.clip(0, 1))


@contextmanager
def _axes(
    size: tuple[float, float], left: float = 0.14, right: float = 0.97
) -> Iterator[tuple[Figure, Axes]]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = STYLE  # matplotlib's stubs want literal keys
    with mpl.rc_context(style):
        figure = Figure(figsize=size)
        height = size[1]
        axes = figure.add_axes((left, 0.55 / height, right - left, 1 - _MARGINS / height))
        yield figure, axes


def _logarithmic(axes: Axes, curves: Sequence[NDArray[np.float64]]) -> None:
    """A logarithmic vertical axis with plain numbers, at least two of them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    shown = np.concatenate(curves)
    is_short = shown.max() < 30 * shown.min()
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if is_short else (1.0,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw(axes: Axes, curve: NDArray[np.float64], look: Look) -> None:
    shown = thinned(curve)
    colour = look.colour.stand_in
    axes.plot(shown, curve[shown], color=colour, alpha=0.22, linewidth=0.7)
    axes.plot(shown, smoothed(curve)[shown], color=colour, linewidth=2, linestyle=look.dashes)


def _name_ends(
    axes: Axes,
    curves: Sequence[NDArray[np.float64]],
    names: Sequence[str],
    looks: Sequence[Look],
) -> None:
    """Writes each curve's name beside its end, with a piece of the curve."""
    to_share = axes.transData + axes.transAxes.inverted()
    ends = [float(to_share.transform((0, smoothed(curve)[-1]))[1]) for curve in curves]
    height = axes.get_window_extent().height / axes.figure.dpi
    for name, look, end in zip(names, looks, spread(ends, _LABEL_GAP / height, 0, 1), strict=True):
        colour = look.colour.stand_in
        style: Any = {"color": colour, "transform": axes.transAxes, "clip_on": False}
        axes.plot([1.015, 1.085], [end, end], linewidth=2, linestyle=look.dashes, **style)
        axes.text(1.1, end, name, va="center", weight="bold", **style)


def _quiet() -> dict[str, Any]:
    return {"color": PALETTE["muted"].stand_in, "fontsize": 10}


def _numbers(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.double().numpy()


def _rgb(name: str) -> NDArray[np.float64]:
    from matplotlib.colors import to_rgb

    return np.array(to_rgb(PALETTE[name].dark))


def _png(pixels: NDArray[np.float64]) -> str:
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
