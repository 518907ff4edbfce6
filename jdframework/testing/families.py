"""Families of Jacobians on which methods go wrong: degenerate, conflicting, badly scaled."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Generator, Tensor

_COLUMNS: Final = 10


@dataclass(frozen=True)
class Family:
    """One kind of Jacobian, for any number of objectives.

    >>> FAMILIES["opposite rows"](2).sum(dim=0).any()
    tensor(False)
    """

    name: str
    """Its key in ``FAMILIES``."""
    build: Callable[[int, Generator], Tensor]
    """Makes a Jacobian of so many rows."""

    def __call__(self, m: int, seed: int = 0) -> Float[Tensor, "m n"]:
        """The same Jacobian every time, in float64.

        :param m: The number of objectives.
        :param seed: Another seed gives another Jacobian of the family.
        """
        number = zlib.crc32(f"{self.name}/{m}/{seed}".encode())
        return self.build(m, Generator().manual_seed(number))

    def __str__(self) -> str:
        return self.name


def normal(m: int, n: int, generator: Generator) -> Float[Tensor, "m n"]:
    """Independent standard normal entries."""
    return torch.randn(m, n, generator=generator, dtype=torch.float64)


def _random(m: int, generator: Generator) -> Tensor:
    return normal(m, _COLUMNS, generator)


def _rank_deficient(m: int, generator: Generator) -> Tensor:
    return normal(m, 2, generator) @ normal(2, _COLUMNS, generator)


def _fewer_columns_than_rows(m: int, generator: Generator) -> Tensor:
    return normal(m, max(1, m // 2), generator)


def _one_column(m: int, generator: Generator) -> Tensor:
    return normal(m, 1, generator)


def _no_column(m: int, generator: Generator) -> Tensor:
    return normal(m, 0, generator)


def _orthogonal(m: int, generator: Generator) -> Tensor:
    columns: Tensor = torch.linalg.qr(normal(max(m, _COLUMNS), m, generator)).Q
    return columns.T * torch.arange(1, m + 1)[:, None]


def _duplicate_rows(m: int, generator: Generator) -> Tensor:
    jacobian = _random(m, generator)
    jacobian[1::2] = jacobian[0]
    return jacobian


def _opposite_rows(m: int, generator: Generator) -> Tensor:
    jacobian = _random(m, generator)
    jacobian[1::2] = -jacobian[0 : m - 1 : 2]
    return jacobian


def _stationary(m: int, generator: Generator) -> Tensor:
    jacobian = _random(m, generator)
    return jacobian - jacobian.mean(0)


def _all_zero(m: int, generator: Generator) -> Tensor:
    return torch.zeros(m, _COLUMNS, dtype=torch.float64)


def _one_zero_row(m: int, generator: Generator) -> Tensor:
    jacobian = _random(m, generator)
    jacobian[m // 2] = 0.0
    return jacobian


def _badly_scaled(m: int, generator: Generator) -> Tensor:
    norms = torch.logspace(-6, 6, m, dtype=torch.float64)
    return torch.nn.functional.normalize(_random(m, generator)) * norms[:, None]


def _huge(m: int, generator: Generator) -> Tensor:
    return 1e12 * _random(m, generator)


def _tiny(m: int, generator: Generator) -> Tensor:
    return 1e-12 * _random(m, generator)


FAMILIES: Final[dict[str, Family]] = {
    name: Family(name, build)
    for name, build in {
        "random": _random,
        "orthogonal": _orthogonal,
        "rank-deficient": _rank_deficient,
        "fewer columns than rows": _fewer_columns_than_rows,
        "one column": _one_column,
        "no column": _no_column,
        "duplicate rows": _duplicate_rows,
        "opposite rows": _opposite_rows,
        "stationary": _stationary,
        "all zero": _all_zero,
        "one zero row": _one_zero_row,
        "badly scaled": _badly_scaled,
        "huge": _huge,
        "tiny": _tiny,
    }.items()
}
"""By name. ``"stationary"``: the gradients sum to zero. ``"badly scaled"``: norms 1e-6 to 1e6."""
