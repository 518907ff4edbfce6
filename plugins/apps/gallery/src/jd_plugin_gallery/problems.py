"""Two classic problems with two objectives in the plane, whose Pareto sets are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, sin
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

_ANGLES: Final = (0.6, -0.6)
"""How far the long axes of the two bowls are turned, in radians."""
_CURVATURES: Final = ((0.2, 1.0), (0.4, 2.0))
"""Along each bowl's long axis and across it: the second bowl is twice as steep."""
_MINIMA: Final = ((-2.5, -1.0), (2.5, -1.0))


@dataclass(frozen=True)
class Problem:
    """Two objectives of a point in the plane."""

    name: str
    title: str
    formula: str
    """In LaTeX."""
    losses: Callable[[Float[Tensor, "... 2"]], Float[Tensor, "... 2"]]
    pareto_set: Float[Tensor, "p 2"]
    """Points along it, in order."""
    starts: tuple[tuple[float, float], ...]
    learning_rate: float
    """Of the first step."""
    corner: tuple[float, float]
    """The picture of the parameters reaches as far to both sides of the origin."""


def _element_wise(x: Float[Tensor, "... 2"]) -> Float[Tensor, "... 2"]:
    return x.square()


def _forms() -> Float[Tensor, "2 2 2"]:
    """The two positive definite matrices."""
    turns = torch.tensor([[[cos(a), -sin(a)], [sin(a), cos(a)]] for a in _ANGLES])
    return turns @ torch.diag_embed(torch.tensor(_CURVATURES)) @ turns.mT


def _quadratic_forms(x: Float[Tensor, "... 2"]) -> Float[Tensor, "... 2"]:
    away = x.unsqueeze(-2) - torch.tensor(_MINIMA, dtype=x.dtype)
    return torch.einsum("...ij,ijk,...ik->...i", away, _forms().to(x.dtype), away) / 2


def _between_the_minima(count: int = 101) -> Float[Tensor, "p 2"]:
    """Where the gradients, shared out ``t`` to ``1 - t``, cancel."""
    forms, minima = _forms().double(), torch.tensor(_MINIMA, dtype=torch.float64)
    pulls = torch.einsum("ijk,ik->ij", forms, minima)
    shares = torch.linspace(0, 1, count, dtype=torch.float64)
    both = torch.stack([1 - shares, shares], dim=1)
    mixed = torch.einsum("pi,ijk->pjk", both, forms)
    points: Tensor = torch.linalg.solve(mixed, both @ pulls)
    return points


PROBLEMS: Final = (
    Problem(
        name="element-wise",
        title="Element-wise quadratic",
        formula=r"f(x) = (x_1^2,\ x_2^2)",
        losses=_element_wise,
        pareto_set=torch.zeros(1, 2, dtype=torch.float64),
        starts=((3.0, -2.0), (0.5, -3.0), (-3.0, 0.7), (-2.2, 2.6)),
        learning_rate=0.1,
        corner=(3.7, 3.7),
    ),
    Problem(
        name="quadratic-forms",
        title="Convex quadratic forms",
        formula=r"f_i(x) = \tfrac12 (x - u_i)^\top A_i (x - u_i)",
        losses=_quadratic_forms,
        pareto_set=_between_the_minima(),
        starts=((-3.2, 1.6), (1.8, 3.0), (3.6, 0.4), (-0.6, -2.6)),
        learning_rate=0.2,
        corner=(4.0, 4.0),
    ),
)
