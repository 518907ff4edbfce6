"""Group norm in the place of batch norm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jd_plugin_autogram import replace_batch_norm

from .truth import F64, assert_served, one


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3)])
def test_a_model_without_batch_norm_is_served_instance_by_instance(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inner = nn.BatchNorm1d(6)
    model = nn.Sequential(inner, nn.Sequential(nn.Tanh(), nn.BatchNorm1d(6, affine=False)))
    x = torch.randn(*shape, dtype=F64)
    assert replace_batch_norm(model) is model
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in model.modules())
    assert model[0].weight is inner.weight
    assert model[0].bias is inner.bias
    assert_served(model.to(F64), lambda: one(model(x)))


def test_a_layer_in_two_places_stays_one_layer() -> None:
    norm = nn.BatchNorm2d(4)
    model = replace_batch_norm(nn.ModuleDict({"a": norm, "b": norm}), groups=2)
    assert isinstance(model, nn.ModuleDict)
    assert model["a"] is model["b"]
    assert model["a"].num_groups == 2


@pytest.mark.parametrize("channels", [1, 2, 3, 7, 32, 48])
def test_no_group_is_one_number_alone(channels: int) -> None:
    layer = replace_batch_norm(nn.BatchNorm1d(channels))
    output: Tensor = layer(torch.randn(4, channels))
    assert isinstance(layer, nn.GroupNorm)
    assert channels == 1 or bool(output.abs().max() > 0)


def test_a_number_of_groups_that_is_none() -> None:
    with pytest.raises(ValueError, match="groups = 0"):
        replace_batch_norm(nn.BatchNorm1d(4), groups=0)
