"""What an engine says to what is no weighting and no aggregator."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import jdframework as jd


@pytest.mark.parametrize("engine", ["autojac", "autogram", "chunked"])
@pytest.mark.parametrize("method", ["upgrad", {"name": "cagrad", "c": 0.4}])
def test_a_spec_is_refused_with_what_makes_a_method_of_it(engine: str, method: object) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"itself, not .*: jd.weighting\(.*\) makes it"):
        jd.engine(engine, model).backward(model(torch.ones(2)), method)


@pytest.mark.parametrize("engine", ["autojac", "autogram", "chunked"])
def test_a_scalarizer_is_refused_with_what_to_do(engine: str) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="'uw' is a scalarizer, which needs no engine"):
        jd.engine(engine, model).backward(model(torch.ones(2)), jd.scalarizer("uw", shape=2))
