"""What a method remembers by place stays with the objective that had it, across checkpoints too."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import jdframework as jd
from jdframework.protocols.names import Kind
from jdframework.testing import derived_suite

KINDS: tuple[Kind, ...] = ("weighting", "aggregator", "scalarizer")
ORDER, OTHER = ("depth", "normals"), ("normals", "depth")


def settings(kind: Kind, name: str) -> dict[str, Any]:
    """What the method needs for two objectives."""
    found = dict(derived_suite(kind, name).config)
    known = {"shape": 2, "weights": [1.0, 2.0]}
    return found | {field: value for field, value in known.items() if field in found}


def maker(kind: Kind, name: str) -> Callable[[], Any]:
    return lambda: getattr(jd, kind)(name, **settings(kind, name))


METHODS: dict[str, Callable[[], Any]] = {
    f"{kind} {name}": maker(kind, name) for kind in KINDS for name in jd.available(kind)
} | {
    "the sum of gradvac": lambda: jd.aggregator("gradvac"),
    "flattened gradvac": lambda: jd.weighting("flattening", inner="gradvac"),
    "grouped gradvac": lambda: jd.aggregator("grouped", inner="gradvac"),
    "averaged upgrad": lambda: jd.weighting("cr-mogm", inner="upgrad"),
    "nash-mtl between two solutions": lambda: jd.weighting("nash-mtl", update_weights_every=2),
}


class Trainer(nn.Module):
    """A model and the Descent that trains it, of two named objectives."""

    def __init__(self, method: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.descent = jd.Descent(self.model, method)

    def losses(self, *names: str) -> dict[str, Tensor]:
        found = self.model(torch.ones(4, 3)).square().mean(0) + 0.1
        by_name = dict(zip(ORDER, found, strict=True))
        return {name: by_name[name] for name in names}

    def step(self, *names: str) -> jd.Step:
        return self.backward(lambda: self.losses(*names))

    def backward(self, losses: Callable[[], Any]) -> jd.Step:
        method = self.descent.method
        count = max(getattr(method, "independent_batches", (1, 2)))
        crossed = "cross-gramian" in method.needs
        others = tuple(losses() for _ in range(count)) if crossed else None
        step: jd.Step = self.descent.backward(losses(), independent=others)
        return step


def has_places(state: Mapping[str, Tensor]) -> bool:
    """Whether any number in it has one place for each of the two objectives."""
    return any(tensor.is_floating_point() and 2 in tensor.shape for tensor in state.values())


def through_torch(state: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    torch.save(state, folder / "state.pt")
    loaded: dict[str, Tensor] = torch.load(folder / "state.pt", weights_only=True)
    return loaded


def through_safetensors(state: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    save_file(state, folder / "state.safetensors")
    loaded: dict[str, Tensor] = load_file(folder / "state.safetensors")
    return loaded


def descent_of(trainer: Trainer) -> nn.Module:
    return trainer.descent


def method_of(trainer: Trainer) -> Any:
    return trainer.descent.method


def parent_of(trainer: Trainer) -> nn.Module:
    return trainer


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("owner", "through"),
    [
        (descent_of, through_torch),
        (method_of, through_safetensors),
        (parent_of, through_safetensors),
    ],
)
def test_objectives_in_another_order_than_the_checkpoints_are_refused(
    method: str, owner: Any, through: Any, tmp_path: Path
) -> None:
    saved = Trainer(METHODS[method]())
    saved.step(*ORDER)
    state = through(owner(saved).state_dict(), tmp_path)
    resumed = Trainer(METHODS[method]())
    owner(resumed).load_state_dict(state, strict=True)
    own = resumed.descent.state_dict()
    assert own.keys() == saved.descent.state_dict().keys()
    if not has_places(own):
        assert not any(key.endswith("objective_names") for key in own)
        assert resumed.step(*OTHER).names == OTHER
        return
    with pytest.raises(ValueError, match="'normals', 'depth', but the checkpoint has 'depth', 'n"):
        resumed.step(*OTHER)
    assert resumed.step(*ORDER).names == ORDER


def test_every_method_that_is_known_to_remember_writes_names_into_its_state() -> None:
    found = set()
    for name, make in METHODS.items():
        trainer = Trainer(make())
        trainer.step(*ORDER)
        if any(key.endswith("objective_names") for key in trainer.descent.state_dict()):
            found.add(name.split()[-1])
    known = {"moco", "gradvac", "uw", "imtl-l", "imtl", "famo", "dwa", "stch-mtl", "solutions"}
    assert known <= found


@pytest.mark.parametrize("method", ["weighting gradvac", "scalarizer uw"])
def test_losses_without_names_leave_none_in_the_state_and_any_order_goes_on(method: str) -> None:
    saved = Trainer(METHODS[method]())
    saved.backward(lambda: torch.stack([*saved.losses(*ORDER).values()]))
    state = saved.descent.state_dict()
    assert "objective_names" not in state
    resumed = Trainer(METHODS[method]())
    resumed.step(*ORDER)  # names that the loaded state does not have
    resumed.descent.load_state_dict(state, strict=True)
    assert resumed.step(*OTHER).names == OTHER
    with pytest.raises(ValueError, match="but the step before had 'normals', 'depth'"):
        resumed.step(*ORDER)


@pytest.mark.parametrize(
    "method", ["weighting gradvac", "scalarizer uw", "scalarizer famo", "the sum of gradvac"]
)
@pytest.mark.parametrize("reset", [descent_of, method_of])
def test_reset_forgets_the_names(method: str, reset: Any) -> None:
    trainer = Trainer(METHODS[method]())
    trainer.step(*ORDER)
    reset(trainer).reset()
    assert not any("objective_names" in key for key in trainer.descent.state_dict())
    assert trainer.step(*OTHER).names == OTHER


def pickled(trainer: Trainer) -> Trainer:
    found: Trainer = pickle.loads(pickle.dumps(trainer))  # noqa: S301  # our own
    return found


@pytest.mark.parametrize("again", [copy.deepcopy, pickled])
@pytest.mark.parametrize("method", ["weighting gradvac", "scalarizer uw", "the sum of gradvac"])
def test_a_copy_knows_the_names(method: str, again: Any) -> None:
    trainer = Trainer(METHODS[method]())
    trainer.step(*ORDER)
    twin = again(trainer)
    with pytest.raises(ValueError, match="remembers them by their places"):
        twin.step(*OTHER)


def test_a_step_that_fails_leaves_the_names_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second call uses the solution for the last time and forgets it: here it never was."""
    trainer = Trainer(jd.weighting("nash-mtl", update_weights_every=2))
    trainer.step(*ORDER)
    state = copy.deepcopy(trainer.descent.state_dict())
    with monkeypatch.context() as patch:
        patch.setattr("jdframework.descent.descent.pullback", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trainer.step(*ORDER)
    torch.testing.assert_close(trainer.descent.state_dict(), state)
    with pytest.raises(ValueError, match="remembers them by their places"):
        trainer.step(*OTHER)


def test_losses_after_the_update_are_matched_by_the_names_of_the_checkpoint() -> None:
    whole = Trainer(jd.scalarizer("famo", shape=2))
    whole.step(*ORDER)
    resumed = Trainer(jd.scalarizer("famo", shape=2))
    resumed.descent.load_state_dict(copy.deepcopy(whole.descent.state_dict()))
    after = {"depth": torch.tensor(0.2), "normals": torch.tensor(0.3)}
    whole.descent.after_update(after)
    resumed.descent.after_update(dict(reversed(after.items())))
    logits = [trainer.descent.state_dict()["logits"] for trainer in (whole, resumed)]
    torch.testing.assert_close(*logits)
    assert logits[0].any()


def test_names_may_have_any_characters() -> None:
    names = ("", "a\0b", "Tiefe, 'Näh\"e'", "深")
    model = nn.Linear(3, 4)
    descent = jd.Descent(model, "gradvac")
    losses = dict(zip(names, model(torch.ones(3)).square(), strict=True))
    descent.backward(losses)
    fresh = jd.Descent(model, "gradvac")
    fresh.load_state_dict(descent.state_dict())
    losses = dict(zip(names, model(torch.ones(3)).square(), strict=True))
    assert fresh.backward(losses, retain_graph=True).names == names
    with pytest.raises(ValueError, match="remembers them by their places"):
        fresh.backward(dict(reversed(losses.items())))


@pytest.mark.parametrize("kind", ["weighting", "aggregator"])
def test_the_functional_interface_knows_the_names_of_an_instances_last_call(kind: str) -> None:
    method = getattr(jd, kind)("gradvac")
    trunk, head = nn.Linear(3, 4), nn.Linear(4, 2)

    def call(*names: str, of_tasks: bool) -> None:
        features = trunk(torch.ones(5, 3))
        losses = dict(zip(names, head(features).square().mean(0), strict=True))
        if of_tasks:
            jd.mtl_backward(losses, features, method)
        else:
            jd.backward(losses, method)

    call(*ORDER, of_tasks=True)
    call(*ORDER, of_tasks=False)
    for of_tasks in (True, False):
        with pytest.raises(ValueError, match="gradvac remembers them by their places"):
            call(*OTHER, of_tasks=of_tasks)
