"""What wraps another method hands on its needs, its state, its parameters and its calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.bases import GramianWeighting, WeightingWrapper
from jdframework.bases.wrapper import spec_of
from jdframework.config import Config, Vector


class Twice(WeightingWrapper):
    """Twice the weights of another weighting."""

    resolve = staticmethod(jd.weighting)

    def forward(self, statistic: Tensor, /, **extra: Tensor) -> Tensor:
        weights: Tensor = self.inner(statistic, **extra)
        return 2 * weights


class Listening(GramianWeighting):
    """Has a parameter, a state, and all the calls that a method may have."""

    needs = frozenset({"cross-gramian", "losses"})
    independent_batches = (2,)

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.scale = nn.Parameter(torch.ones(()))
        self.told: list[str] = []

    def forward(self, gramian: Tensor, /, losses: Tensor | None = None) -> Tensor:
        return gramian.diagonal() * self.scale

    def reset(self) -> None:
        self.told.append("reset")

    def after_update(self, losses: Tensor, /) -> None:
        self.told.append(f"after {losses.tolist()}")

    def end_epoch(self) -> None:
        self.told.append("epoch")


class TensorConfig(Config):
    """A setting that takes a tensor."""

    values: Vector = (1.0,)


class Valued(GramianWeighting):
    """Gives its setting."""

    Config = TensorConfig
    config: TensorConfig

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.new_tensor(self.config.values)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    jd.register("weighting", "valued-of-this-test")(Valued)
    yield
    jd.unregister("weighting", "valued-of-this-test")


def test_the_needs_of_an_instance_are_those_of_its_inner_method() -> None:
    assert Twice.needs == {"gramian"}
    method = Twice(inner=Listening())
    assert method.needs == {"cross-gramian", "losses"}
    assert method.independent_batches == (2,)
    assert not hasattr(Twice(inner="upgrad"), "independent_batches")


def test_its_calls_reach_the_inner_method() -> None:
    inner = Listening()
    method = Twice(inner=inner)
    method.reset()
    method.after_update(torch.tensor([1.0, 2.0]))
    method.end_epoch()
    assert inner.told == ["reset", "after [1.0, 2.0]", "epoch"]


def test_its_calls_do_nothing_where_the_inner_method_has_none() -> None:
    method = Twice(inner="upgrad")
    method.reset()
    method.after_update(torch.ones(2))
    method.end_epoch()


def test_the_state_and_the_parameters_are_those_of_the_inner_method_too() -> None:
    method = Twice(inner=Listening())
    assert list(method.state_dict()) == ["inner.scale"]
    assert len(list(method.parameters())) == 1


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "Valued of this test", "values": torch.tensor([1.0, 2.0])},
        {"name": "valued-of-this-test", "values": [1, 2]},
        Valued(values=(1.0, 2.0)),
    ],
    ids=["tensor", "mapping", "instance"],
)
def test_the_setting_survives_json_however_the_inner_method_was_given(spec: Any) -> None:
    method = Twice(inner=spec)
    assert method.config.inner == {"name": "valued-of-this-test", "values": [1.0, 2.0]}
    restored = Twice(**json.loads(method.config.model_dump_json()))
    assert restored(torch.eye(2)).tolist() == method(torch.eye(2)).tolist() == [2.0, 4.0]


def test_a_ready_instance_is_the_one_that_runs() -> None:
    inner = Valued(values=[3.0])
    assert Twice(inner=inner).inner is inner


def test_the_spec_of_default_settings_is_the_name() -> None:
    assert spec_of(Valued()) == "valued-of-this-test"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, jd.ConfigError, "twice needs the setting 'inner'"),
        ({"inner": 3}, jd.ConfigError, "twice: inner = 3 was given, but needed is a name"),
        ({"inner": "upgradd"}, jd.UnknownNameError, "did you mean 'upgrad'"),
        ({"inner": "uw"}, jd.UnknownNameError, "'uw' is a scalarizer, not a weighting"),
        (
            {"inner": {"name": "upgrad", "reg_eps": -1.0}},
            jd.ConfigError,
            "twice: inner = .* was given, but upgrad: reg_eps = -1.0",
        ),
        ({"inner": "upgrad", "outer": 1}, jd.ConfigError, "twice has no setting 'outer'"),
    ],
)
def test_a_wrong_inner_method_is_one_clear_sentence(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Twice(**settings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_inner_weighting_works_in_full_precision(dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    class Seen(GramianWeighting):
        def forward(self, gramian: Tensor, /) -> Tensor:
            seen.append(gramian.dtype)
            return gramian.diagonal()

    found = Twice(inner=Seen())(torch.eye(2, dtype=dtype))
    assert seen == [torch.float64]
    assert found.dtype == dtype
