"""A setting that is assigned is refused, or validated and taken; never ignored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import jdframework as jd
from jdframework import bases
from jdframework.protocols.names import Kind
from jdframework.registry import resolve
from jdframework.testing import derived_suite

KINDS: tuple[Kind, ...] = ("weighting", "aggregator", "scalarizer")
METHODS = [(kind, name) for kind in KINDS for name in jd.available(kind)]


def made(kind: Kind, name: str) -> Any:
    return getattr(jd, kind)(name, **derived_suite(kind, name).config)


def is_property(method: Any, field: str) -> bool:
    return isinstance(getattr(type(method), field, None), property)


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_no_assigned_setting_of_a_method_is_ignored(kind: Kind, name: str) -> None:
    method = made(kind, name)
    before = method.config
    for field in type(before).model_fields:
        if field in method.assignable or is_property(method, field):
            continue
        for act in (lambda f=field: setattr(method, f, 0.5), lambda f=field: delattr(method, f)):
            with pytest.raises(jd.ConfigError, match=rf"\.{field} cannot be assigned.*{field}=…"):
                act()
    with pytest.raises(jd.ConfigError, match="config cannot be assigned"):
        method.config = before.model_copy()
    assert method.config is before


@pytest.mark.parametrize("name", jd.available("engine"))
def test_no_assigned_setting_of_an_engine_is_ignored(name: str) -> None:
    engine: Any = jd.engine(name, nn.Linear(2, 1))
    with pytest.raises(jd.ConfigError, match=rf"jd.engine\('{name}', …, batch_dim=…\)"):
        engine.batch_dim = 1
    with pytest.raises(jd.ConfigError, match="settings are fixed"):
        engine.config = engine.config.model_copy()


def test_a_weighted_sum_says_how_to_make_another() -> None:
    aggregator: Any = jd.aggregator("upgrad")
    with pytest.raises(jd.ConfigError, match=r"jd.aggregator\('upgrad', pref_vector=…\)"):
        aggregator.pref_vector = [1.0, 2.0]


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_state_loads_and_moves_whatever_its_names(kind: Kind, name: str) -> None:
    method, other = made(kind, name), made(kind, name)
    other.load_state_dict(method.state_dict(), strict=True)
    other.load_state_dict(method.state_dict(), strict=True, assign=True)
    other.to(torch.float64).float()
    for key, value in other.named_parameters():
        setattr(other, key, nn.Parameter(value.detach().clone()))


class Scaled(bases.Scalarizer):
    """An author keeps a setting, derives from it, and has a state of its name."""

    class Config(bases.ShapedConfig):
        """Settings."""

        factor: float = 2.0
        total: float = 0.0

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.factor = self.config.factor
        self.register_buffer("total", torch.tensor(self.config.total))

    def forward(self, losses: torch.Tensor, /) -> torch.Tensor:
        self.total = self.total + losses.detach().sum()
        return self.factor * losses.sum()


def test_a_constructor_may_keep_a_setting_and_a_state_may_have_its_name() -> None:
    method = Scaled(shape=2, factor=3.0)
    assert method(torch.ones(2)) == 6.0
    assert method.total == 2.0
    with pytest.raises(jd.ConfigError, match=r"Scaled\(factor=…\)"):
        method.factor = 4.0


@pytest.mark.parametrize("name", ["cosmos", "pbi", "stch"])
def test_a_drawn_preference_is_validated_and_taken(name: str) -> None:
    if name not in jd.available("scalarizer"):
        pytest.skip(f"jd-plugin-{name} is not installed")
    settings = {**derived_suite("scalarizer", name).config, "weights": [1.0, 2.0]}
    method, losses = jd.scalarizer(name, **settings), torch.tensor([0.5, 2.0])
    drawn = torch.tensor([0.25, 0.75])
    method.weights = drawn  # type: ignore[attr-defined]
    fresh = jd.scalarizer(name, **{**settings, "weights": drawn})
    assert method.config == fresh.config
    assert method(losses) == fresh(losses)
    with pytest.raises(jd.ConfigError, match="no weight may be negative"):
        method.weights = [-1.0, 2.0]  # type: ignore[attr-defined]
    assert method(losses) == fresh(losses)


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_a_class_has_its_entry_points_name_however_it_was_reached(kind: Kind, name: str) -> None:
    cls = resolve(kind, name)
    looked_up = type(cls.__name__, (cls,), {"__module__": cls.__module__})  # never resolved
    looked_up.__qualname__ = cls.__qualname__
    assert looked_up.name == name
