"""What a user may write, and what the engine makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import jdframework as jd
from jdframework.autograd.memory import free_bytes

from jd_plugin_chunked import Chunked
from jd_plugin_chunked.budget import Budget
from jd_plugin_chunked.layout import Layout

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory": "four gigabytes"}, "memory = 'four gigabytes' was given, but an amount is a"),
        ({"memory": "4"}, "an amount is a number and a unit, as '500MB'"),
        ({"memory": "0GB"}, "the amount must be positive"),
        ({"memory": 4}, "a number is a share of what is free, above 0 and at most 1; write"),
        ({"memory": 0}, "a number is a share of what is free"),
        ({"memory": -0.5}, "a number is a share of what is free"),
        ({"offload": "cloud"}, "offload = 'cloud' was given, but"),
        ({"parallel_chunk_size": 0}, "parallel_chunk_size = 0 was given, but"),
        ({"chunk": 2}, "chunked has no setting 'chunk'"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(jd.ConfigError) as error:
        jd.engine("chunked", nn.Linear(2, 1), **settings)
    assert message in str(error.value)


@pytest.mark.parametrize("memory", ["4GB", 0.25, None])
def test_settings_survive_json(memory: str | float | None) -> None:
    config = Chunked(nn.Linear(2, 1), memory=memory, offload=None).config
    assert type(config).model_validate_json(config.model_dump_json()) == config
    assert config.memory == memory


def test_a_share_is_of_what_is_free() -> None:
    layout = Layout([torch.empty(int(free_bytes(CPU) * 0.1) // 4, device="meta")])
    assert Budget(0.4, None, CPU).holds(1, layout)
    assert not Budget(0.1, None, CPU).holds(1, layout)
    assert not Budget(None, None, CPU).holds(5, layout)


def test_the_budget_sets_the_rows_of_a_pass() -> None:
    layout, device = Layout([torch.empty(1000)]), torch.device("cuda")
    assert Budget("160KB", None, device).rows(layout) == 10
    assert Budget("1B", None, device).rows(layout) == 1
    assert Budget("1GB", None, device).rows(layout) == 256
    assert Budget("1GB", None, CPU).rows(layout) == 1
    assert Budget("1B", 3, device).rows(layout) == 3


def test_the_budget_sets_the_columns_of_a_block_down_to_two_rows() -> None:
    layout = Layout([torch.empty(1000)])
    assert Budget("80KB", None, CPU).columns(10, layout, copies=2) == 1000
    assert Budget("16KB", None, CPU).columns(10, layout, copies=2) == 200
    assert Budget("1B", None, CPU).columns(10, layout, copies=2) == 100


def test_automatic_choice_takes_it_last() -> None:
    assert "chunked" in jd.available("engine")
    assert Chunked.cost == 70
    assert Chunked.capabilities == {"gramian", "jacobian"}
