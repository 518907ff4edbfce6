"""Flattening: generalized Gramians in, weights of the losses' shape out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.bases import GramianWeighting, JacobianWeighting, Randomised
from jdframework.linalg import generalized
from jdframework.testing import FAMILIES, WeightingSuite

INNER = "noisy-of-this-test"


class Noisy(Randomised, GramianWeighting):
    """Random numbers times what a row of the Gramian adds up to, to tell entries apart."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return self.normal(len(gramian), like=gramian) * gramian.abs().sum(1)


class ByLoss(GramianWeighting):
    """The losses."""

    needs = frozenset({"gramian", "losses"})

    def forward(self, gramian: Tensor, /, losses: Tensor | None = None) -> Tensor:
        assert losses is not None
        assert losses.shape == (len(gramian),)
        return losses


class Rows(JacobianWeighting):
    """Row sums."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian.sum(1)


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    jd.register("weighting", INNER)(Noisy)
    yield
    jd.unregister("weighting", INNER)


class TestFlattening(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {
        "name": "flattening",
        "inner": {"name": INNER, "seed": 0},
    }
    permutation_equivariant = False
    scale = None


def gramian_of(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    jacobian = FAMILIES["random"](torch.Size(shape).numel(), seed)
    return jacobian @ jacobian.T


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (3, 1), (2, 3, 2)])
def test_each_entry_gets_the_weight_of_its_place_in_the_flat_list(shape: tuple[int, ...]) -> None:
    gramian = gramian_of(shape)
    found = jd.weighting("flattening", inner=Noisy(seed=3))(generalized(gramian, shape))
    assert found.shape == shape
    torch.testing.assert_close(found.flatten(), Noisy(seed=3)(gramian), rtol=0, atol=0)


def test_a_grid_by_hand_has_its_inner_products_where_they_belong() -> None:
    gradients = FAMILIES["random"](6).reshape(2, 3, -1)
    grid = torch.einsum("ijn,lkn->ijkl", gradients, gradients)  # [2, 3, 3, 2]
    jacobian = gradients.reshape(6, -1)
    expected = Noisy(seed=0)(jacobian @ jacobian.T).reshape(2, 3)
    torch.testing.assert_close(jd.weighting("flattening", inner=Noisy(seed=0))(grid), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_handed_back(dtype: torch.dtype) -> None:
    gramian = generalized(gramian_of((2, 2)).to(dtype), (2, 2))
    found = jd.weighting("flattening", inner=Noisy(seed=0))(gramian)
    assert found.dtype == dtype
    assert not found.requires_grad


def test_losses_of_the_grids_shape_reach_an_inner_weighting_that_needs_them() -> None:
    method = jd.weighting("flattening", inner=ByLoss())
    assert method.needs == {"gramian", "losses"}
    losses = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    found = method(generalized(gramian_of((2, 3)), (2, 3)), losses=losses)
    assert torch.equal(found, losses)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 2, 3), (2, 2, 2), (0, 0), (2, 0, 0, 2)])
def test_a_shape_that_does_not_read_the_same_backwards_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"of a shape like \[m1, m2, m2, m1\], not \["):
        jd.weighting("flattening", inner=Noisy())(torch.ones(shape))


def test_an_inner_weighting_of_the_jacobian_is_refused() -> None:
    with pytest.raises(jd.ConfigError, match="inner = 'rows' was given, which needs the Jacobian"):
        jd.weighting("flattening", inner=Rows())


def test_torchjd_flattens_generalized_gramians_alike() -> None:
    theirs = pytest.importorskip("torchjd._linalg")
    gramian = generalized(gramian_of((2, 3, 2)), (2, 3, 2))
    expected = Noisy(seed=1)(theirs.flatten(gramian)).reshape(2, 3, 2)
    found = jd.weighting("flattening", inner=Noisy(seed=1))(gramian)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_torchjd_gives_the_same_weights_through_its_own_composition() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    flatten = pytest.importorskip("torchjd._linalg").flatten
    pytest.importorskip("jd_plugin_aligned_mtl")
    gramian = generalized(gramian_of((2, 3)), (2, 3))
    theirs = (aggregation.AlignedMTLWeighting() << flatten)(gramian).reshape(2, 3)
    ours = jd.weighting("flattening", inner="aligned-mtl")(gramian)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
