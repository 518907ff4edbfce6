"""An aggregator of a Jacobian in float32 gives what it gives of the same numbers in float64.

Where rows are dependent but for their rounding, the two cannot be the same, for nothing tells
rounding from a short gradient; what is asked there is that an order or a scale changes nothing.
The kinds of matrices are those of torchjd's property tests: of a given rank, and stationary in
three degrees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import torch
from torch import Tensor

import jdframework as jd

METHODS: Final[dict[str, dict[str, Any]]] = {
    "aligned-mtl": {},
    "cagrad": {"c": 0.5},
    "config": {},
    "dual-proj": {},
    "fairgrad": {"alpha": 2.0},
    "gradvac": {},
    "imtl-g": {},
    "krum": {"n_byzantine": 1},
    "mgda": {},
    "modo": {},
    "nash-mtl": {},
    "pcd": {},
    "pcgrad": {},
    "sdmgrad": {},
    "upgrad": {},
}
EQUIVARIANT: Final = ("aligned-mtl", "cagrad", "config", "dual-proj", "imtl-g", "mgda", "upgrad")
NEAR: Final = 5e-5
"""Relative to the longest gradient."""

Generator = torch.Generator


def normal(m: int, n: int, generator: Generator) -> Tensor:
    return torch.randn(m, n, generator=generator)


def close_rows(generator: Generator) -> Iterator[tuple[str, Tensor]]:
    """Twenty gradients of ten numbers, and twelve of thirty, that are nearly dependent."""
    base, center = normal(20, 10, generator), normal(1, 10, generator)
    yield "random", base
    yield "beside each other", center + 1e-3 * base
    yield "in pairs", torch.cat([base[:10], base[:10] + 1e-3 * base[10:]])
    yield "of any length", base * torch.logspace(-6, 6, 20)[:, None]
    half, noise = normal(6, 30, generator), normal(6, 30, generator)
    yield "nearly opposite", torch.cat([half, 1e-3 * noise - half])


@pytest.mark.parametrize("name", METHODS)
def test_close_rows_in_single_precision_give_what_they_give_in_double(name: str) -> None:
    for seed in range(3):
        for kind, jacobian in close_rows(Generator().manual_seed(seed)):
            found, true = (
                _direction(name, given).double() for given in (jacobian, jacobian.double())
            )
            # A fair update is as long as its weights make it.
            size = max(jacobian.norm(dim=1).max().item(), true.norm().item())
            assert (found - true).norm() <= 2e-6 * size, f"{kind}, seed {seed}"


def of_rank(m: int, n: int, rank: int, generator: Generator) -> Tensor:
    left = torch.linalg.qr(normal(m, m, generator))[0][:, :rank]
    right = torch.linalg.qr(normal(n, n, generator))[0][:, :rank]
    return (left * (0.1 + torch.rand(rank, generator=generator))) @ right.T


def balanced(count: int, m: int, n: int, rank: int, generator: Generator) -> Tensor:
    """With positive weights for the first rows that sum to zero: a stationary point."""
    rows = of_rank(m, n, rank, generator)
    weights = 0.1 + torch.rand(m, generator=generator)
    weights[count:] = 0.0
    weights /= weights.norm()
    return rows - torch.outer(weights, weights @ rows)


def strongly_stationary(m: int, n: int, rank: int, generator: Generator) -> Tensor:
    return balanced(m, m, n, rank, generator)


def weakly_stationary(m: int, n: int, rank: int, generator: Generator) -> Tensor:
    return balanced(m // 2, m, n, rank, generator)


def not_stationary(m: int, n: int, rank: int, generator: Generator) -> Tensor:
    rows = of_rank(m, n, max(rank - 1, 1), generator)
    along = normal(n, 1, generator)
    along /= along.norm()
    return rows + (0.1 + torch.rand(m, 1, generator=generator) - rows @ along) * along.T


KINDS: Final = (of_rank, strongly_stationary, weakly_stationary, not_stationary)
SHAPES: Final = ((3, 4, 2), (5, 5, 5), (9, 11, 7), (20, 10, 10), (10, 20, 10), (5, 10, 1))


def dependent(kind: Callable[..., Tensor]) -> Iterator[tuple[Tensor, Generator]]:
    for shape in SHAPES:
        for seed in range(2):
            generator = Generator().manual_seed(seed)
            jacobian = kind(*shape, generator)
            for scale in (1e-10, 1.0, 1e15):
                yield scale * jacobian, generator


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EQUIVARIANT)
def test_the_order_of_dependent_rows_changes_nothing(
    name: str, kind: Callable[..., Tensor]
) -> None:
    for jacobian, generator in dependent(kind):
        order = torch.randperm(len(jacobian), generator=generator)
        found, other = _direction(name, jacobian), _direction(name, jacobian[order])
        assert (found - other).norm() <= NEAR * jacobian.norm(dim=1).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config", "upgrad"])
def test_dependent_rows_count_by_their_lengths(name: str, kind: Callable[..., Tensor]) -> None:
    for jacobian, generator in dependent(kind):
        first, second = torch.rand(2, len(jacobian), 1, generator=generator)
        separate = [_direction(name, lengths * jacobian) for lengths in (first, second)]
        together = _direction(name, (0.3 * first + 0.6 * second) * jacobian)
        expected = 0.3 * separate[0] + 0.6 * separate[1]
        assert (together - expected).norm() <= NEAR * jacobian.norm(dim=1).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["dual-proj", "upgrad"])
def test_dependent_rows_are_not_harmed(name: str, kind: Callable[..., Tensor]) -> None:
    for jacobian, _ in dependent(kind):
        norms = jacobian.norm(dim=1)
        products = jacobian @ _direction(name, jacobian) / norms.clamp(min=1e-30)
        assert products.min() >= -NEAR * norms.max()


def _direction(name: str, jacobian: Tensor) -> Tensor:
    torch.manual_seed(0)
    direction: Tensor = jd.aggregator(name, **METHODS[name])(jacobian)
    return direction
