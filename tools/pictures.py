"""Draws the geometric pictures of the documentation: ``python tools/pictures.py render|check``.

Every arrow is what the methods themselves compute of the gradients that are drawn. The files follow
the reader's light or dark colours, on the site and on GitHub.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Final, TypeAlias

import torch

import jdframework as jd
from jdframework.linalg import gramian, project_on_dual_cone

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "images"

Point: TypeAlias = tuple[float, float]

_STYLE: Final = """
  text { font: 19px system-ui, sans-serif; fill: #24292f }
  .small { font-size: 17px }
  .first { --c: #1f6feb } .second { --c: #bc4c00 } .good { --c: #1a7f37 } .bad { --c: #cf222e }
  .plain { --c: #57606a }
  .line { stroke: var(--c); stroke-width: 3.5; fill: none; stroke-linecap: round }
  .thin { stroke: var(--c); stroke-width: 1.6; fill: none }
  .dashed { stroke-dasharray: 5 6 }
  .area { fill: var(--c); opacity: 0.14 }
  .solid, text.coloured { fill: var(--c) }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .first { --c: #79b8ff } .second { --c: #ffa657 } .good { --c: #56d364 } .bad { --c: #ff7b72 }
    .plain { --c: #9aa4af }
  }
"""


@dataclass
class Picture:
    """A drawing in the units of its vectors.

    :param title: What is seen, for those who do not see it.
    :param width: In pixels.
    :param height: In pixels.
    :param origin: Where the point (0, 0) is, in pixels.
    :param scale: Pixels for each unit.
    """

    title: str
    width: int
    height: int
    origin: Point
    scale: float
    _parts: list[str] = field(default_factory=list)

    def at(self, point: Sequence[float]) -> Point:
        """The point's place in pixels; the second coordinate goes up."""
        x, y = point
        return self.origin[0] + self.scale * x, self.origin[1] - self.scale * y

    def line(self, points: Sequence[Sequence[float]], classes: str) -> None:
        """A line through the points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.at, points))
        self._parts.append(f'<polyline class="{classes}" points="{path}"/>')

    def area(self, points: Sequence[Sequence[float]], classes: str) -> None:
        """A filled polygon."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.at, points))
        self._parts.append(f'<polygon class="{classes} area" points="{path}"/>')

    def box(self, corner: Sequence[float], size: Sequence[float], classes: str) -> None:
        """A rectangle with its lower left corner at the point, its size in units."""
        (x, y), (width, height) = corner, size
        outline = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        self.area(outline, classes)
        self.line([*outline, outline[0]], f"{classes} thin")

    def dot(self, point: Sequence[float], classes: str, radius: float = 6) -> None:
        """A filled dot."""
        x, y = self.at(point)
        self._parts.append(
            f'<circle class="{classes} solid" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
        )

    def ring(self, centre: Sequence[float], radius: float, classes: str) -> None:
        """A circle, its radius in units."""
        x, y = self.at(centre)
        self._parts.append(
            f'<circle class="{classes} thin" cx="{x:.1f}" cy="{y:.1f}" '
            f'r="{radius * self.scale:.1f}"/>'
        )

    def arrow(self, start: Sequence[float], end: Sequence[float], classes: str) -> None:
        """An arrow with a head at its end."""
        tail, tip = (torch.tensor(self.at(point)) for point in (start, end))
        along = (tip - tail) / (tip - tail).norm()
        across = torch.stack([-along[1], along[0]])
        base = tip - 15 * along
        head = " ".join(
            f"{float(x):.1f},{float(y):.1f}"
            for x, y in (tip, base + 6.5 * across, base - 6.5 * across)
        )
        (x1, y1), (x2, y2) = tail.tolist(), base.tolist()
        self._parts.append(
            f'<line class="{classes} line" x1="{x1:.1f}" y1="{y1:.1f}" '
            f'x2="{x2:.1f}" y2="{y2:.1f}"/>'
            f'<polygon class="{classes} solid" points="{head}"/>'
        )

    def label(
        self, text: str, point: Sequence[float], classes: str = "", anchor: str = "start"
    ) -> None:
        """A line of text that starts, ends or has its middle at the point."""
        x, y = self.at(point)
        self._parts.append(
            f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def svg(self) -> str:
        """The file's text."""
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}"'
        title = f"<title>{escape(self.title)}</title>"
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
                title,
                f"<style>{_STYLE}</style>",
                *self._parts,
                "</svg>\n",
            ]
        )


_GRADIENTS: Final = torch.tensor([[3.2, 0.2], [-1.1, 1.3]], dtype=torch.float64)


def two_gradients() -> str:
    """Two gradients, their mean outside of the dual cone, and UPGrad's update inside."""
    picture = Picture(
        "Two gradients in conflict. Their mean points against the second one; "
        "UPGrad's update points against neither.",
        *(600, 310),
        origin=(205, 290),
        scale=105,
    )
    first, second = _GRADIENTS.tolist()
    _cone(picture, reach=2.45)
    mean = jd.aggregator("mean")(_GRADIENTS).tolist()
    update = jd.aggregator("upgrad")(_GRADIENTS).tolist()
    picture.arrow((0, 0), first, "first")
    picture.arrow((0, 0), second, "second")
    picture.arrow((0, 0), mean, "bad")
    picture.arrow((0, 0), update, "good")
    picture.label("gradient 1", (first[0] - 0.15, first[1] + 0.22), "first coloured", "middle")
    picture.label("gradient 2", (second[0] - 0.15, second[1] + 0.15), "second coloured", "middle")
    picture.label("mean", (mean[0] + 0.1, mean[1] - 0.02), "bad coloured")
    picture.label("UPGrad", (update[0] + 0.12, update[1] + 0.1), "good coloured")
    picture.label("harms neither", (0.8, 2.12), "small good coloured", "middle")
    return picture.svg()


def upgrad() -> str:
    """How UPGrad comes about: each gradient is projected onto the dual cone, then the mean."""
    picture = Picture(
        "Each gradient is projected onto the dual cone; UPGrad is the mean of the projections.",
        *(600, 315),
        origin=(205, 290),
        scale=105,
    )
    _cone(picture, reach=2.45)
    weights = project_on_dual_cone(gramian([_GRADIENTS]), torch.eye(2, dtype=torch.float64))
    projections = (weights @ _GRADIENTS).tolist()
    for number, (row, projection, colour) in enumerate(
        zip(_GRADIENTS.tolist(), projections, ("first", "second"), strict=True), start=1
    ):
        picture.arrow((0, 0), row, colour)
        picture.line([row, projection], f"{colour} thin dashed")
        picture.arrow((0, 0), projection, colour)
        picture.dot(projection, colour)
        place = (row[0] - 0.1, row[1] - 0.32) if number == 1 else (row[0] - 0.15, row[1] + 0.15)
        picture.label(f"gradient {number}", place, f"{colour} coloured", "middle")
    update = jd.aggregator("upgrad")(_GRADIENTS).tolist()
    picture.line(projections, "plain thin dashed")
    picture.arrow((0, 0), update, "good")
    picture.label("UPGrad", (0.8, 1.85), "good coloured", "middle")
    return picture.svg()


def pareto() -> str:
    """Two objectives over a plane: conflict off the Pareto set, opposition on it."""
    picture = Picture(
        "Level lines of two objectives around their minima. On the segment between the minima the "
        "two gradients are opposite; elsewhere some direction serves both.",
        *(600, 350),
        origin=(165, 190),
        scale=68,
    )
    minima = (0.0, 0.0), (4.0, 0.0)
    for minimum, colour in zip(minima, ("first", "second"), strict=True):
        for radius in (0.6, 1.2, 1.8):
            picture.ring(minimum, radius, colour)
        picture.dot(minimum, colour, 7)
    picture.line(minima, "plain line dashed")
    for point in ((2.4, 0.0), (2.0, 1.75)):
        down = [torch.tensor(minimum) - torch.tensor(point) for minimum in minima]
        for step, colour in zip(down, ("first", "second"), strict=True):
            end = torch.tensor(point) + 0.36 * step
            picture.arrow(point, end.tolist(), colour)
        rows = -torch.stack(down).double()
        update = jd.aggregator("upgrad")(rows)
        if update.norm() > 1e-6:
            end = torch.tensor(point).double() - 0.5 * update
            picture.arrow(point, end.tolist(), "good")
        picture.dot(point, "plain")
    picture.label("minimum of 1", (0.0, -2.15), "small first coloured", "middle")
    picture.label("minimum of 2", (4.0, -2.15), "small second coloured", "middle")
    picture.label("Pareto set", (2.0, -0.55), "small", "middle")
    picture.label("both can still fall", (2.0, 2.05), "small good coloured", "middle")
    return picture.svg()


def linear_layer() -> str:
    """The shapes of a linear layer's Jacobian, and of what its Gramian is made of instead."""
    m, d, p = 1.0, 2.2, 1.5
    picture = Picture(
        "The Jacobian of one linear layer is a long matrix. Its Gramian is the entrywise product "
        "of two small matrices, made of the layer's inputs and of the gradients at its outputs.",
        *(600, 280),
        origin=(15, 255),
        scale=60,
    )
    picture.box((0, 2.8), (9.5, m), "bad")
    picture.label("Jacobian: m rows, each as large as the weight", (4.75, 3.22), "", "middle")
    picture.box((0, 0.9), (d, m), "first")
    picture.label("A", (d / 2, 1.3), "first coloured", "middle")
    picture.label("inputs", (d / 2, 0.45), "small", "middle")
    picture.box((2.7, 0.9), (p, m), "second")
    picture.label("B", (2.7 + p / 2, 1.3), "second coloured", "middle")
    picture.label("gradients", (2.7 + p / 2, 0.45), "small", "middle")
    picture.label("at the outputs", (2.7 + p / 2, 0.05), "small", "middle")
    picture.arrow((4.45, 1.4), (5.15, 1.4), "plain")
    for left, text, colour in (
        (5.3, "AAᵀ+1", "first"),
        (6.75, "BBᵀ", "second"),
        (8.35, "G", "good"),
    ):
        picture.box((left, 0.9), (m + 0.15, m), colour)
        picture.label(text, (left + 0.575, 1.3), f"small {colour} coloured", "middle")
    picture.label("∘", (6.6, 1.3), "", "middle")
    picture.label("=", (8.13, 1.3), "", "middle")
    picture.label("all of them m by m", (7.4, 0.45), "small", "middle")
    return picture.svg()


_QUESTIONS: Final = (
    (
        "May a step cost more than an ordinary one?",
        (
            ("no, and the losses are alike", ("mean", "sum")),
            ("no, but you know what each is worth", ("constant",)),
            ("no, and their units differ", ("geometric-mean", "uw")),
            ("no, and all are to fall at one pace", ("famo",)),
            ("no, and the largest counts", ("stch",)),
        ),
        "yes",
    ),
    (
        "Are the objectives in conflict at all?",
        (("hardly ever: a scalarizer, as above", ()),),
        "often",
    ),
    (
        "What has to hold of each step?",
        (
            ("no harm; longer gradients count more", ("upgrad",)),
            ("no harm; units do not count", ("nash-mtl", "config")),
            ("between the mean and the worst off", ("fairgrad", "cagrad")),
            ("the shortest combination", ("mgda",)),
            ("one is the goal, the others conditions", ("pcd",)),
        ),
        "and is there",
    ),
    (
        "… something special about the gradients?",
        (
            ("some may be wrong", ("krum", "trimmed-mean")),
            ("they are noisy", ("cr-mogm", "moco", "modo", "sdmgrad")),
            ("they agree in some layers only", ("grouped",)),
        ),
        "",
    ),
)
"""Each with its answers, which lead to methods, and the answer that leads on."""


def choosing() -> str:
    """The questions of the guide to choosing a method, each with the methods it leads to."""
    box, line, gap = 46.0, 30.0, 44.0
    height = sum(box + line * len(answers) + gap for _, answers, _ in _QUESTIONS) - gap + 24
    picture = Picture(
        "Four questions, one below the other. Their answers lead to methods, or to the next one.",
        *(640, round(height)),
        origin=(0, 0),
        scale=1,
    )
    known, top = set(jd.available()), -8.0
    for question, answers, onward in _QUESTIONS:
        picture.box((8, top - box), (624, box), "first")
        picture.label(question, (320, top - 30), "first coloured", "middle")
        top -= box
        for answer, methods in answers:
            unknown = set(methods) - known
            if unknown:
                raise LookupError(f"no method is called {', '.join(unknown)}")
            top -= line
            picture.label(answer, (20, top), "small")
            picture.label(", ".join(methods), (620, top), "small good coloured", "end")
        if onward:
            picture.arrow((320, top - 10), (320, top - gap + 2), "plain")
            picture.label(onward, (336, top - 30), "small plain coloured")
        top -= gap
    return picture.svg()


def _cone(picture: Picture, reach: float) -> None:
    """The directions whose inner product with neither gradient is negative."""
    angles = torch.linspace(0, 2 * torch.pi, 721, dtype=torch.float64)
    directions = torch.stack([angles.cos(), angles.sin()], dim=1)
    inside = directions[(directions @ _GRADIENTS.T >= 0).all(dim=1)]
    arc = (reach * inside).tolist()
    picture.area([(0, 0), *arc], "good")
    for end in (arc[0], arc[-1]):
        picture.line([(0, 0), end], "good thin dashed")


PICTURES: Final = {
    "two-gradients.svg": two_gradients,
    "upgrad.svg": upgrad,
    "pareto.svg": pareto,
    "linear-layer.svg": linear_layer,
    "choosing.svg": choosing,
}


def main(arguments: list[str] | None = None, folder: Path = FOLDER) -> int:
    """The command; 1 if ``check`` found a difference."""
    parser = argparse.ArgumentParser(prog="tools/pictures.py", description=__doc__)
    parser.add_argument("action", choices=["render", "check"])
    action = parser.parse_args(arguments).action
    old = []
    for name, draw in PICTURES.items():
        path, text = folder / name, draw()
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        old.append(name)
        if action == "render":
            path.write_text(text, "utf-8")
    if old and action == "check":
        print(f"{', '.join(old)}: old; run python tools/pictures.py render")
        return 1
    print(f"wrote {', '.join(old)}" if old else "the pictures are up to date")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
