"""Each installed method trains by its name alone, or its error says what to write."""

from __future__ import annotations

from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd

NEEDS: Final = {
    "constant": 'jd.Descent(model, "constant", weights=[0.7, 0.3])',
    "cosmos": 'jd.Descent(model, "cosmos", lambda_=2.0)',
    "cr-mogm": 'jd.Descent(model, "cr-mogm", inner="upgrad")',
    "flattening": 'jd.Descent(model, "flattening", inner="upgrad")',
    "grouped": 'jd.Descent(model, "grouped", inner="upgrad")',
    "krum": 'jd.Descent(model, "krum", n_byzantine=0)',
    "trimmed-mean": 'jd.Descent(model, "trimmed-mean", trim_number=0)',
}
"""What has no default because nobody could know it, and the line that the error says to write."""

METHODS: Final = sorted(set(jd.available()) - set(jd.available("engine")))


def trained(model: nn.Module, descent: jd.Descent, x: Tensor) -> list[Tensor]:
    """Three steps of one optimizer over the model's and the method's parameters."""
    optimizer = torch.optim.Adam([*model.parameters(), *descent.parameters()], lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        descent.backward(losses(model, x), **batches(descent, model, x))
        optimizer.step()
        descent.after_update(losses(model, x).detach())
    return [parameter.detach().clone() for parameter in descent.parameters()]


def losses(model: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = (model(x) - 1.0).square().mean(0) + 0.1
    return found


def batches(descent: jd.Descent, model: nn.Module, x: Tensor) -> dict[str, Any]:
    if "cross-gramian" not in descent.method.needs:
        return {}
    others = [losses(model, x + 0.1) for _ in range(descent.method.independent_batches[0])]
    return {"independent": others[0] if len(others) == 1 else tuple(others)}


def toy() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(3, 2), torch.randn(8, 3)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NEEDS])
def test_each_method_trains_by_its_name_alone(name: str) -> None:
    model, x = toy()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    learned = trained(model, jd.Descent(model, name), x)
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.isfinite(parameter).all()
        assert not torch.equal(parameter, old)
    assert bool(learned) == jd.describe(name).trainable
    assert all(values.shape == (2,) and values.all() for values in learned)


@pytest.mark.parametrize("name", NEEDS)
def test_what_has_no_default_says_what_to_write(name: str) -> None:
    model, x = toy()
    with pytest.raises(jd.ConfigError) as refusal:
        jd.Descent(model, name)
    assert f"write {NEEDS[name]}, for instance" in str(refusal.value)
    trained(model, eval(NEEDS[name], {"jd": jd, "model": model}), x)  # noqa: S307  # our own line


def test_the_table_names_only_what_is_installed() -> None:
    assert set(NEEDS) <= set(METHODS)
