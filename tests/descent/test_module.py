"""A Descent is a module with one child, its method: saved, copied and pickled like any other."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd


class Trainer(nn.Module):
    """A module that holds a model and a Descent, as trainers' modules do."""

    def __init__(self, method: str, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        if method == "famo":
            settings["shape"] = 2
        self.descent = jd.Descent(self.model, method, **settings)

    def step(self) -> jd.Step:
        torch.manual_seed(1)
        x = torch.randn(5, 3, dtype=self.model.weight.dtype)
        losses = self.model(x).square().mean(0)
        step: jd.Step = self.descent.backward(losses)
        return step


def test_its_only_child_is_the_method() -> None:
    trainer = Trainer("uw", shape=2)
    assert [name for name, _ in trainer.descent.named_children()] == ["method"]
    assert list(trainer.descent.parameters()) == list(trainer.descent.method.parameters())
    names = [name for name, _ in trainer.named_parameters()]
    assert sorted(names) == ["descent.method.s", "model.bias", "model.weight"]


@pytest.mark.parametrize("method", ["dwa", "famo", "excess-mtl", "pcgrad"])
def test_a_parents_state_holds_the_methods_and_loads_into_a_fresh_one(method: str) -> None:
    trainer = Trainer(method)
    trainer.step()
    trainer.descent.end_epoch()
    trainer.step()
    state = trainer.state_dict()
    own = {f"descent.{key}" for key in trainer.descent.state_dict()}
    assert set(state) == {"model.weight", "model.bias", *own}
    saved = io.BytesIO()
    torch.save(state, saved)
    saved.seek(0)
    fresh = Trainer(method)
    missing, unexpected = fresh.load_state_dict(torch.load(saved, weights_only=True))
    assert not missing
    assert not unexpected
    for key, value in trainer.descent.state_dict().items():
        assert torch.equal(value, fresh.descent.state_dict()[key]), key


def test_a_parents_state_with_another_key_is_refused() -> None:
    trainer = Trainer("dwa")
    trainer.step()
    state = trainer.state_dict()
    with pytest.raises(RuntimeError, match="nothing"):
        Trainer("dwa").load_state_dict({**state, "descent.nothing": torch.zeros(())})


def copied(trainer: Trainer) -> Trainer:
    return copy.deepcopy(trainer)


def pickled(trainer: Trainer) -> Trainer:
    found: Trainer = pickle.loads(pickle.dumps(trainer))  # noqa: S301  # our own
    return found


def saved(trainer: Trainer) -> Trainer:
    file = io.BytesIO()
    torch.save(trainer, file)
    file.seek(0)
    found: Trainer = torch.load(file, weights_only=False)
    return found


@pytest.mark.parametrize("again", [copied, pickled, saved])
@pytest.mark.parametrize("engine", ["auto", "autojac", "autogram", "chunked"])
def test_a_copy_trains_its_own_model_as_the_original_does(again: Any, engine: str) -> None:
    trainer = Trainer("upgrad", engine=engine)
    trainer.step()
    twin = again(trainer)
    trainer.model.zero_grad()
    twin.model.zero_grad()
    assert torch.equal(trainer.step().weights, twin.step().weights)
    assert twin.model.weight is not trainer.model.weight
    assert torch.equal(trainer.model.weight.grad, twin.model.weight.grad)
    before: Tensor = trainer.model.weight.grad.clone()
    twin.step()
    assert torch.equal(trainer.model.weight.grad, before)


def test_it_moves_and_changes_mode_as_its_parent_does() -> None:
    trainer = Trainer("dwa")
    trainer.step()
    trainer.double().eval()
    assert not trainer.descent.method.training
    assert trainer.model.weight.dtype == torch.float64
    trainer.step()
