"""What methods with one preference per objective share."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases.method import BaseMethod
from jdframework.config import Config, PerLoss


class PreferenceConfig(Config):
    """Settings of a method that takes preferences."""

    pref_vector: PerLoss | None = Field(
        None,
        description="One preference per objective, also in the losses' shape; 1/m each when None.",
    )


class Preferring(BaseMethod):
    """Mix-in of a method that takes one preference per objective."""

    Config: ClassVar[type[Any]] = PreferenceConfig

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_constant("pref_vector", self.config.pref_vector)

    def preferences(self, gramian: Float[Tensor, "m m"]) -> Float[Tensor, " m"]:
        """The preferences, in the dtype and on the device of ``gramian``; 1/m each by default.

        :raises ConfigError: if ``pref_vector`` has another length than the Gramian.
        """
        m = len(gramian)
        if self.config.pref_vector is None:
            return gramian.new_full((m,), 1 / m)
        return self.constant("pref_vector", m, gramian)
