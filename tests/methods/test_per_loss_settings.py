"""Settings with one number per loss have the losses' shape, or are one list."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
import torch

import jdframework as jd

VALUES: Final = torch.tensor([[0.1, 0.4], [0.3, 0.2]])
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "aligned-mtl": {"pref_vector": VALUES},
    "config": {"pref_vector": VALUES},
    "constant": {"weights": VALUES},
    "cosmos": {"weights": VALUES, "lambda_": 1.0},
    "cr-mogm": {"initial_weights": VALUES, "inner": "mgda"},
    "dual-proj": {"pref_vector": VALUES},
    "famo": {"min_losses": VALUES},
    "graddrop": {"leak": VALUES, "seed": 0},
    "pbi": {"weights": VALUES, "reference": VALUES},
    "stch": {"weights": VALUES, "reference": VALUES},
    "upgrad": {"pref_vector": VALUES},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_tensor_of_the_losses_shape_is_as_good_as_a_list_and_survives_json(name: str) -> None:
    settings = SETTINGS[name]
    flat = {
        key: value.flatten().tolist() if isinstance(value, torch.Tensor) else value
        for key, value in settings.items()
    }
    made = jd.Descent(torch.nn.Linear(1, 1), name, **settings).method
    through_json = json.loads(made.config.model_dump_json())
    found = [gradient(name, each) for each in (settings, flat, through_json)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def gradient(name: str, settings: dict[str, Any]) -> torch.Tensor:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 4)
    losses = (model(torch.randn(6, 3)) - 1).square().mean(0).reshape(2, 2) + 1.0
    jd.Descent(model, name, **settings).backward(losses)
    assert model.weight.grad is not None
    return model.weight.grad
