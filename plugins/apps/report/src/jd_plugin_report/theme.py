"""How pictures look, in light and in dark.

Matplotlib draws with stand-in colours. In the finished SVG each becomes a CSS variable, so that one
picture serves both modes and the page's style sheet decides.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Colour:
    """One colour of the pictures."""

    variable: str
    """The CSS variable."""
    stand_in: str
    """What matplotlib draws with."""
    light: str
    dark: str


@dataclass(frozen=True)
class Look:
    """How a curve is drawn."""

    colour: Colour
    dashes: Any


def _palette() -> dict[str, Colour]:
    stand_ins = (f"#01fe{number:02x}" for number in count(1))
    return {
        name: Colour(f"--{name}", next(stand_ins), light, dark)
        for name, (light, dark) in _COLOURS.items()
    }


_COLOURS: Final = {
    "ink": ("#1f2430", "#e8e8ea"),
    "muted": ("#646b78", "#9ba1ad"),
    "line": ("#d5d8de", "#3a404b"),
    # The tasks' and the methods' colours stay apart under the common kinds of colour blindness,
    # and each has a contrast of at least 4.5 : 1 against the page, because labels wear them too.
    "left": ("#846900", "#e3c53f"),
    "right": ("#5b50b8", "#a79df5"),
    "series-0": ("#0b67a8", "#62b5f0"),
    "series-1": ("#b9480a", "#f2a25f"),
    "series-2": ("#0a7557", "#3ecfa0"),
    "series-3": ("#a43d7d", "#e78fc4"),
    "series-4": ("#5d6573", "#b3bac6"),
}
PALETTE: Final = _palette()
SERIES: Final = tuple(name for name in PALETTE if name.startswith("series-"))
_FONT: Final = re.compile(
    r"font: (?P<style>italic |oblique )?(?P<weight>\d+|bold)? ?(?P<size>[\d.]+px)[^;\"]*"
)
_OUTLINE: Final = re.compile(r'(?<= d=")[^"]+')
_LONG_NUMBER: Final = re.compile(r"-?\d+\.\d{2,}")
DASHES: Final = ("-", (0, (3, 1.5)), (0, (1, 1.2)))

STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "jdframework",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": PALETTE["line"].stand_in,
    "axes.labelcolor": PALETTE["muted"].stand_in,
    "axes.titlecolor": PALETTE["ink"].stand_in,
    "xtick.color": PALETTE["line"].stand_in,
    "ytick.color": PALETTE["line"].stand_in,
    "xtick.labelcolor": PALETTE["muted"].stand_in,
    "ytick.labelcolor": PALETTE["muted"].stand_in,
    "text.color": PALETTE["ink"].stand_in,
}


def svg(figure: Figure, name: str, description: str) -> str:
    """The figure as SVG to stand inside an HTML page, in the page's colours and fonts.

    :param figure: Drawn with :data:`STYLE` and stand-in colours.
    :param name: Unlike any other picture's on the page; keeps their identifiers apart.
    :param description: What a screen reader says.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    drawn = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawn)
    drawn = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", drawn)
    drawn = _FONT.sub(_without_family, drawn)
    drawn = _OUTLINE.sub(_without_needless_digits, drawn)
    for colour in PALETTE.values():
        drawn = drawn.replace(colour.stand_in, f"var({colour.variable})")
    return drawn.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)


def alone(drawn: str) -> str:
    """What :func:`svg` gives as a file of its own, light or dark as the reader's system is.

    :param drawn: The picture.
    """
    light, dark = (_rules(mode) for mode in ("light", "dark"))
    style = (
        f"<style>:root {{ {light} color-scheme: light dark; font-family: sans-serif; }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}</style>"
    )
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    opened = drawn.replace("<svg", head, 1)
    end = opened.index(">") + 1
    return f"{opened[:end]}\n{style}{opened[end:]}"


def _rules(mode: str) -> str:
    return " ".join(f"{c.variable}: {getattr(c, mode)};" for c in PALETTE.values())


def _without_needless_digits(outline: re.Match[str]) -> str:
    """Tenths of a point: a screen shows no more."""
    rounded = _LONG_NUMBER.sub(lambda number: f"{float(number[0]):.1f}", outline[0])
    return rounded.replace(" \n", " ").strip()


def _without_family(font: re.Match[str]) -> str:
    """The page's own fonts; a shorthand without a family would be void."""
    parts = [f"font-size: {font['size']}"]
    parts += [f"font-weight: {font['weight']}"] if font["weight"] else []
    parts += ["font-style: italic"] if font["style"] else []
    return "; ".join(parts)


def series_look(index: int) -> Look:
    """The look of the method at this place of the list.

    After every colour was used once, the lines are dashed, then dotted.
    """
    round_, place = divmod(index, len(SERIES))
    return Look(PALETTE[SERIES[place]], DASHES[round_ % len(DASHES)])
