"""Blocks of a Jacobian in, one direction per block out, as from the whole matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.bases import Aggregator, GramianWeighting, JacobianWeighting
from jdframework.testing import combine_blocks


class Ramp(GramianWeighting):
    """Weights 1, 2, 3 and so on."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return torch.arange(1.0, 1.0 + len(gramian)).to(gramian)


class Rows(JacobianWeighting):
    """Weights by row sums."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian.sum(1)


class Largest(Aggregator):
    """The largest entry of each column."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian.amax(0)


def blocks(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, *shape, dtype=dtype) for shape in ((2, 4), (), (5,))]


def whole(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.reshape(3, -1) for part in parts], 1)


@pytest.mark.parametrize("method", [Ramp(), Rows(), Largest()], ids=["gramian", "rows", "columns"])
def test_blocks_give_what_the_whole_matrix_gives(method: object) -> None:
    parts = blocks()
    combined = combine_blocks(method, parts)
    found = torch.cat([d.flatten() for d in combined.directions if d is not None])
    torch.testing.assert_close(found, jd.aggregator(method)(whole(parts)))
    assert [d.shape for d in combined.directions if d is not None] == [p.shape[1:] for p in parts]


def test_an_unreached_parameter_gets_no_direction() -> None:
    first, second, third = blocks()
    directions = combine_blocks(Ramp(), [first, None, third]).directions
    assert directions[1] is None
    torch.testing.assert_close(
        directions[2], combine_blocks(Ramp(), [first, second, third]).directions[2]
    )


def test_nothing_reached_is_an_error() -> None:
    with pytest.raises(ValueError, match="depend on no parameter"):
        combine_blocks(Ramp(), [None, None])


def test_half_precision_is_summed_in_float32() -> None:
    parts = [torch.full((2, 4), 600.0, dtype=torch.float16)]
    combined = combine_blocks(Ramp(), parts)
    assert combined.gramian is not None
    assert combined.gramian.dtype == torch.float32
    assert combined.gramian[0, 0] == 4 * 600.0**2
    assert combined.directions[0] is not None
    assert combined.directions[0].dtype == torch.float16


def test_a_wrapped_weighting_is_not_given_the_joined_matrix() -> None:
    seen: list[torch.Size] = []

    class Seen(GramianWeighting):
        def forward(self, gramian: Tensor, /) -> Tensor:
            seen.append(gramian.shape)
            return gramian.new_ones(len(gramian))

    combined = combine_blocks(jd.aggregator(Seen()), blocks())
    assert seen == [torch.Size([3, 3])]
    assert combined.weights is not None
