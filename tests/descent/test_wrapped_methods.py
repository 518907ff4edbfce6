"""A wrapped method runs as it would alone: on an engine that serves it, with what it needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.testing import derived_suite

F64 = torch.float64
WRAPPERS = {"cr-mogm", "flattening"}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def spec_of(name: str) -> dict[str, Any]:
    """What makes an instance for three objectives, its random numbers seeded."""
    required = derived_suite("weighting", name).config
    config = {k: (2 * v)[:3] if isinstance(v, list) else v for k, v in required.items()}
    if "seed" in jd.describe(name, "weighting").config_schema.get("properties", {}):
        config["seed"] = 0
    return {"name": name, **config}


def weightings(unwanted: str) -> list[str]:
    names = [name for name in jd.available("weighting") if name not in WRAPPERS]
    return [name for name in names if unwanted not in jd.describe(name, "weighting").needs]


def losses_of(model: nn.Module) -> Tensor:
    losses: Tensor = (model(torch.randn(8, 4, dtype=F64)) - 1).square().mean(0)
    return losses


def made() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(F64)


@pytest.mark.parametrize("name", weightings("cross-gramian"))
def test_cr_mogm_averages_the_weights_of_any_weighting(name: str) -> None:
    model = made()
    alone = jd.Descent(model, spec_of(name), engine="autojac")
    smooth = jd.Descent(model, "cr-mogm", inner=spec_of(name), alpha=0.5)
    average = None
    for _ in range(3):
        losses = losses_of(model)
        fresh = alone.backward(losses, retain_graph=True).weights
        found = smooth.backward(losses).weights
        assert fresh is not None
        assert found is not None
        average = fresh if average is None else 0.5 * average + 0.5 * fresh
        torch.testing.assert_close(found, average, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", weightings("jacobian"))
def test_flattening_serves_a_grid_of_losses_through_any_weighting_of_a_gramian(name: str) -> None:
    if "cross-gramian" in jd.describe(name, "weighting").needs:
        pytest.skip("a batch of its own is needed")
    model = made()
    losses = losses_of(model).reshape(1, 3)
    alone = jd.Descent(model, spec_of(name), engine="autojac").backward(losses, retain_graph=True)
    flat = jd.Descent(model, "flattening", inner=spec_of(name), engine="autojac").backward(losses)
    assert flat.names == ("0,0", "0,1", "0,2")
    torch.testing.assert_close(flat.weights, alone.weights)


def test_the_engine_is_one_that_serves_the_inner_weighting() -> None:
    needs_rows = [
        name
        for name in weightings("cross-gramian")
        if "jacobian" in jd.describe(name, "weighting").needs
    ]
    assert needs_rows
    for name in needs_rows:
        descent = jd.Descent(made(), "cr-mogm", inner=spec_of(name))
        assert descent.engine is not None
        assert "jacobian" in descent.engine.capabilities
