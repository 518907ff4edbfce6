"""Weights under which the update has equal projections on all rows."""

from __future__ import annotations

import pytest
import torch

from jdframework.linalg import impartial_weights
from jdframework.testing import FAMILIES


@pytest.mark.parametrize("m", [1, 2, 3, 8])
@pytest.mark.parametrize("name", ["random", "orthogonal", "badly scaled", "tiny", "huge"])
def test_the_projections_on_the_unit_rows_are_equal(name: str, m: int) -> None:
    jacobian = FAMILIES[name](m)
    weights = impartial_weights(jacobian @ jacobian.T)
    projections = jacobian @ (weights @ jacobian) / jacobian.norm(dim=1)
    torch.testing.assert_close(projections, projections[0].expand(m), rtol=1e-8, atol=0)
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-9)


def test_of_dependent_rows_no_short_one_is_lost() -> None:
    lengths = torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64)
    jacobian = lengths[:, None] * FAMILIES["random"](1)
    found = impartial_weights(jacobian @ jacobian.T)
    torch.testing.assert_close(found, (1 / lengths) / (1 / lengths).sum(), rtol=1e-9, atol=0)


def test_rows_that_balance_out_have_no_weights() -> None:
    row = FAMILIES["random"](1)
    jacobian = torch.cat([row, -3 * row])
    assert impartial_weights(jacobian @ jacobian.T).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_gives_nan(value: float, m: int) -> None:
    gramian = torch.eye(m)
    gramian[0, 0] = value
    assert impartial_weights(gramian).isnan().all()


@pytest.mark.parametrize("cosine", [-0.995, -0.98, -0.5, 0.0, 0.9, 1.0])
def test_two_rows_share_by_the_length_of_the_other(cosine: float) -> None:
    lengths = torch.tensor([3.0, 1e-3], dtype=torch.float64)
    unit = torch.tensor([[1.0, cosine], [cosine, 1.0]], dtype=torch.float64)
    found = impartial_weights(unit * lengths * lengths[:, None])
    torch.testing.assert_close(found, lengths.flip(0) / lengths.sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("m", [5, 40])
def test_nearly_dependent_rows_are_told_from_dependent_ones(m: int) -> None:
    """Two rows at an angle of 1e-5 have a pseudo-inverse other than one of two equal rows."""
    jacobian = FAMILIES["orthogonal"](m)
    jacobian[1] = jacobian[0] + 1e-5 * jacobian[1]
    weights = impartial_weights(jacobian @ jacobian.T)
    projections = jacobian @ (weights @ jacobian) / jacobian.norm(dim=1)
    torch.testing.assert_close(projections, projections[0].expand(m), rtol=1e-5, atol=0)
    jacobian[1] = jacobian[0]
    twins = impartial_weights(jacobian @ jacobian.T)
    assert twins[0].item() == pytest.approx(twins[1].item(), rel=1e-9)
