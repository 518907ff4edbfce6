"""The losses reach the weightings and the aggregators that need them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.bases import Aggregator, GramianWeighting, losses_for
from jdframework.protocols.names import Need
from jdframework.testing import combine_blocks


class ByLoss(GramianWeighting):
    """Weights that are the losses."""

    needs: frozenset[Need] = frozenset({"gramian", "losses"})

    def forward(self, gramian: Tensor, /, losses: Tensor | None = None) -> Tensor:
        return losses_for(self, losses, gramian)


class SumByLoss(Aggregator):
    """The rows, weighted by the losses."""

    needs: frozenset[Need] = frozenset({"jacobian", "losses"})

    def forward(self, jacobian: Tensor, /, losses: Tensor | None = None) -> Tensor:
        return losses_for(self, losses, jacobian, negative=False) @ jacobian


JACOBIAN = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
LOSSES = torch.tensor([3.0, 5.0])
EXPECTED = [3.0, 11.0]


@pytest.mark.parametrize("method", [ByLoss(), SumByLoss()], ids=["weighting", "aggregator"])
def test_the_losses_are_given_to_what_needs_them(method: object) -> None:
    assert jd.aggregator(method)(JACOBIAN, losses=LOSSES).tolist() == EXPECTED
    found = combine_blocks(method, [JACOBIAN[:, :1], JACOBIAN[:, 1:]], losses=LOSSES).directions
    assert [part.item() for part in found if part is not None] == EXPECTED


def test_losses_of_any_shape_are_one_for_each_row() -> None:
    assert ByLoss()(torch.eye(4), losses=torch.arange(4.0).reshape(2, 2)).tolist() == [0, 1, 2, 3]


def test_they_have_the_precision_that_the_method_computes_in_and_no_graph() -> None:
    found = losses_for(ByLoss(), LOSSES.half().requires_grad_(), torch.eye(2).double())
    assert found.dtype == torch.float64
    assert not found.requires_grad


@pytest.mark.parametrize("method", [ByLoss(), SumByLoss()], ids=["weighting", "aggregator"])
def test_a_call_without_them_is_refused_with_the_remedy(method: object) -> None:
    with pytest.raises(ValueError, match=r"needs the losses .*: call it with losses=…"):
        jd.aggregator(method)(JACOBIAN)


def test_another_number_of_losses_is_refused_with_both() -> None:
    with pytest.raises(ValueError, match="was given 3 losses, but there are 2 objectives"):
        ByLoss()(torch.eye(2), losses=torch.ones(3))


def test_a_negative_loss_is_refused_by_its_position_where_there_can_be_none() -> None:
    with pytest.raises(ValueError, match="at least zero, but loss 1 is -0.5"):
        SumByLoss()(JACOBIAN, losses=torch.tensor([1.0, -0.5]))
    assert ByLoss()(torch.eye(2), losses=torch.tensor([1.0, -0.5])).tolist() == [1.0, -0.5]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_are_left_to_the_method(value: float) -> None:
    assert not SumByLoss()(JACOBIAN, losses=torch.tensor([value, 1.0])).isfinite().all()
