"""Weightings whose settings break a promise."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ConfigDict, Field, field_validator
from torch import Tensor

from jdframework.bases import GramianWeighting
from jdframework.config import Config
from jdframework.testing import WeightingSuite


class _Uniform(GramianWeighting):
    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.new_ones(len(gramian))


class AnythingGoes(Config):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", frozen=True)


class TakesAnySetting(_Uniform):
    Config = AnythingGoes


class TestTakesAnySetting(WeightingSuite):
    spec = TakesAnySetting
    caught_by = ("test_an_unknown_setting_is_refused",)


class Changeable(Config):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=False)
    power: float | None = Field(1.0, description="An exponent.")


class SettingsCanBeChanged(_Uniform):
    Config = Changeable


class TestSettingsCanBeChanged(WeightingSuite):
    spec = SettingsCanBeChanged
    caught_by = ("test_settings_are_frozen",)


class Silent(Config):
    power: float = 1.0


class SilentSetting(_Uniform):
    Config = Silent


class TestSilentSetting(WeightingSuite):
    spec = SilentSetting
    caught_by = ("test_each_setting_is_described",)


class InPercent(Config):
    share: float = Field(50.0, description="A share, in percent.")

    @field_validator("share", mode="before")
    @classmethod
    def _as_share(cls, share: Any) -> Any:
        return share / 100


class DividedAtEachReading(_Uniform):
    Config = InPercent


class TestDividedAtEachReading(WeightingSuite):
    spec = DividedAtEachReading
    config: ClassVar[dict[str, Any]] = {"share": 20.0}
    caught_by = ("test_settings_survive_json",)
