"""The picture of one method: each problem in the space of the parameters and of the values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from jd_plugin_gallery.courses import Course
from jd_plugin_gallery.problems import Problem
from jd_plugin_report import theme
from jd_plugin_report.theme import PALETTE, SERIES, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

Courses = Mapping[str, Sequence[Course]]
"""By the problem's name, one for each of its starts."""

_STYLE: Final = STYLE | {"font.size": 9, "axes.titlesize": 9.5, "axes.titlepad": 6}
_PANEL: Final = 3.1
_LEVELS: Final = np.linspace(0.6, 4.2, 7) ** 2
_ARROWS: Final = (0.3, 0.65)
"""Where along a path its arrows sit, as shares of its length."""


def picture(name: str, problems: Sequence[Problem], courses: Courses) -> str:
    """The method's picture as SVG to stand inside a page: one line of panels for each problem.

    :param name: The method's.
    :param problems: Those to draw.
    :param courses: What the method did on them.
    """
    import matplotlib as mpl

    described = f"The paths of {name} on two problems with two objectives each"
    style: Any = _STYLE  # matplotlib's stubs want literal keys
    with mpl.rc_context(style):
        return theme.svg(_figure(problems, courses), name, described)


def _figure(problems: Sequence[Problem], courses: Courses) -> Figure:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(2 * _PANEL, _PANEL * len(problems) + 0.35), layout="constrained")
    lines = drawn.subplots(len(problems), 2, squeeze=False)
    for problem, (parameters, values) in zip(problems, lines, strict=True):
        _draw_parameters(parameters, problem, courses[problem.name])
        _draw_values(values, problem, courses[problem.name])
    _explain(drawn)
    return drawn


def _draw_parameters(axes: Axes, problem: Problem, courses: Sequence[Course]) -> None:
    right, top = problem.corner
    axes.set(xlim=(-right, right), ylim=(-top, top), aspect="equal")
    axes.set(title=f"{problem.title}: parameters", xlabel="$x_1$", ylabel="$x_2$")
    x, y = np.meshgrid(np.linspace(-right, right, 31), np.linspace(-top, top, 31))
    heights = _numbers(problem.losses(torch.tensor(np.stack([x, y], axis=-1))))
    for objective, name in enumerate(("left", "right")):
        colour = PALETTE[name].stand_in
        style: Any = {"colors": colour, "alpha": 0.35, "linewidths": 0.6}
        axes.contour(x, y, heights[..., objective], _LEVELS, **style)
    _draw_pareto(axes, _numbers(problem.pareto_set))
    for index, course in enumerate(courses):
        _draw_course(axes, _numbers(course.points), index)


def _draw_values(axes: Axes, problem: Problem, courses: Sequence[Course]) -> None:
    front = _numbers(problem.losses(problem.pareto_set))
    axes.set(title=f"{problem.title}: values", xlabel="$f_1$", ylabel="$f_2$")
    _draw_pareto(axes, front)
    for index, course in enumerate(courses):
        _draw_course(axes, _numbers(course.values), index)
    starts = np.array([_numbers(course.values)[0] for course in courses])
    reach = 1.08 * np.vstack([starts, front]).max(axis=0)
    axes.set(xlim=(-0.04 * reach[0], reach[0]), ylim=(-0.04 * reach[1], reach[1]))
    axes.set_box_aspect(1)


def _draw_pareto(axes: Axes, points: NDArray[np.float64]) -> None:
    style: Any = {"color": PALETTE["ink"].stand_in, "alpha": 0.4, "solid_capstyle": "round"}
    if len(points) == 1:
        axes.plot(*points.T, "o", markersize=9, markeredgewidth=0, **style)
    else:
        axes.plot(*points.T, linewidth=5, **style)


def _draw_course(axes: Axes, points: NDArray[np.float64], index: int) -> None:
    colour = PALETTE[SERIES[index]].stand_in
    axes.plot(*points.T, color=colour, linewidth=1.5)
    axes.plot(*points[0], "o", color=colour, markersize=6, markerfacecolor="none")
    axes.plot(*points[-1], "o", color=colour, markersize=5)
    for share in _ARROWS:
        _draw_arrow(axes, points, share, colour)


def _draw_arrow(axes: Axes, points: NDArray[np.float64], share: float, colour: str) -> None:
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    if lengths.sum() == 0:
        return
    place = int(np.searchsorted(np.cumsum(lengths), share * lengths.sum()))
    tail, head = points[place], points[place + 1]
    arrow: Any = {"arrowstyle": "-|>", "color": colour, "linewidth": 0, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", head, tail, arrowprops=arrow | {"mutation_scale": 11})


def _explain(drawn: Figure) -> None:
    from matplotlib.lines import Line2D

    ink, muted = PALETTE["ink"].stand_in, PALETTE["muted"].stand_in
    ring = Line2D([], [], marker="o", linestyle="", markerfacecolor="none", color=muted)
    dot = Line2D([], [], marker="o", linestyle="", color=muted)
    pareto = Line2D([], [], linewidth=5, color=ink, alpha=0.4)
    contours = [Line2D([], [], linewidth=1, color=PALETTE[n].stand_in) for n in ("left", "right")]
    drawn.legend(
        [ring, dot, pareto, *contours],
        ["start", "end", "Pareto optimal", "level of $f_1$", "of $f_2$"],
        loc="outside lower center",
        ncols=5,
        frameon=False,
        labelcolor=muted,
        handletextpad=0.6,
        columnspacing=1.2,
    )


def _numbers(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().numpy()
