"""Jacobians for which the small problems are degenerate, badly scaled or nearly so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.random import Generator

from jdframework.linalg.unit_problem import Array

Build = Callable[[int, Generator], Array]


def _normal(m: int, random: Generator) -> Array:
    return random.standard_normal((m, m + 3))


def _mild(m: int, random: Generator) -> Array:
    return random.standard_normal((m, 1000)) + 0.1


def _hard(m: int, random: Generator) -> Array:
    return random.standard_normal((m, max(1, m // 2)))


def _rank_one(m: int, random: Generator) -> Array:
    return random.standard_normal((m, 1)) @ random.standard_normal((1, m + 3))


def _plane(m: int, random: Generator) -> Array:
    return random.standard_normal((m, 2))


def _duplicates(m: int, random: Generator) -> Array:
    return _normal(m, random)[random.integers(0, m, m)]


def _opposites(m: int, random: Generator) -> Array:
    return _duplicates(m, random) * random.choice([-1.0, 1.0], (m, 1))


def _integers(m: int, random: Generator) -> Array:
    return random.integers(-2, 3, (m, max(2, m // 2))).astype(np.float64)


def _zero(m: int, random: Generator) -> Array:
    return np.zeros((m, 4))


def _some_zero_rows(m: int, random: Generator) -> Array:
    jacobian = _normal(m, random)
    jacobian[::2] = 0.0
    return jacobian


def _unequal(m: int, random: Generator) -> Array:
    return _normal(m, random) * 10.0 ** random.uniform(-6, 6, (m, 1))


def _hard_and_unequal(m: int, random: Generator) -> Array:
    return _hard(m, random) * 10.0 ** random.uniform(-6, 6, (m, 1))


def _graded(m: int, random: Generator) -> Array:
    return _normal(m, random) * 10.0 ** -np.linspace(0, 12, m + 3)


def _agreeing(m: int, random: Generator) -> Array:
    return np.abs(_normal(m, random))


def _scaled(factor: float) -> Build:
    return lambda m, random: factor * _normal(m, random)


def _nearly(angle: float, signs: list[float]) -> Build:
    """All rows within ``angle`` of one line."""

    def build(m: int, random: Generator) -> Array:
        line = random.standard_normal((1, m + 3))
        return line * random.choice(signs, (m, 1)) + angle * random.standard_normal((m, m + 3))

    return build


def _pairs(angle: float) -> Build:
    """Pairs of rows that are opposite up to ``angle``."""

    def build(m: int, random: Generator) -> Array:
        firsts = random.standard_normal((m // 2 + 1, m + 3)).repeat(2, axis=0)[:m]
        signs = np.where(np.arange(m) % 2, 1.0, -1.0)[:, None]
        return firsts * signs + angle * random.standard_normal((m, m + 3))

    return build


PROBLEMS: Final[dict[str, Build]] = {
    "normal": _normal,
    "mild": _mild,
    "hard": _hard,
    "rank one": _rank_one,
    "plane": _plane,
    "duplicates": _duplicates,
    "opposites": _opposites,
    "integers": _integers,
    "zero": _zero,
    "some zero rows": _some_zero_rows,
    "norms from 1e-6 to 1e6": _unequal,
    "hard, norms from 1e-6 to 1e6": _hard_and_unequal,
    "graded": _graded,
    "agreeing": _agreeing,
    "tiny": _scaled(1e-12),
    "huge": _scaled(1e12),
    "nearly parallel, 1e-3": _nearly(1e-3, [1.0]),
    "nearly parallel, 1e-6": _nearly(1e-6, [1.0]),
    "nearly opposite, 1e-3": _nearly(1e-3, [-1.0, 1.0]),
    "nearly opposite, 1e-6": _nearly(1e-6, [-1.0, 1.0]),
    "opposite pairs, 1e-3": _pairs(1e-3),
    "opposite pairs, 1e-6": _pairs(1e-6),
}


def jacobian(problem: str, m: int, seed: int = 0) -> Array:
    """The same Jacobian every time."""
    return PROBLEMS[problem](m, np.random.default_rng((m, seed)))


def gramian(problem: str, m: int, seed: int = 0) -> Array:
    """Its Gramian, exactly symmetric."""
    rows = jacobian(problem, m, seed)
    product = rows @ rows.T
    return np.asarray(0.5 * product + 0.5 * product.T)
