"""One value per loss, of a shape that the first losses tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from jdframework.bases.device import initial_device
from jdframework.bases.method import BaseMethod
from jdframework.config import Config

_MOST: Final = 10**9
"""Of losses, each of which takes some bytes."""


class ShapedConfig(Config):
    """Settings of a method that keeps one value per loss."""

    shape: tuple[int, ...] | None = Field(
        None,
        description="Shape of the losses, as an int or a tuple of ints; that of the first losses "
        "when None.",
    )

    @field_validator("shape", mode="before")
    @classmethod
    def _int_is_one_dimension(cls, shape: Any) -> Any:
        return (shape,) if isinstance(shape, int) else shape

    @field_validator("shape")
    @classmethod
    def _positive(cls, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if shape is None:
            return None
        if any(size < 1 for size in shape):
            raise ValueError("every dimension must be at least 1")
        if math.prod(shape) > _MOST:
            raise ValueError(f"at most {_MOST} losses are possible")
        return shape


class Shaped(BaseMethod):
    """Mix-in of a method that keeps values of the losses' shape, in parameters or in buffers.

    Without the setting ``shape`` they are empty until the first losses, which tell it. A parameter
    is filled in place then, so that an optimizer that was made before trains it. (It is no
    ``torch.nn.UninitializedParameter``, which has no ``numel()``, no ``detach()`` and hence no
    state, and which ``torch.load`` refuses.) A saved state of any shape loads into an instance
    without the setting.
    """

    Config: ClassVar[type[Any]] = ShapedConfig
    per_loss: ClassVar[tuple[str, ...]] = ()
    """The names of these parameters and buffers."""

    def initial(self, dtype: torch.dtype | None = None) -> Tensor:
        """Zeros of the configured shape; empty without one.

        :param dtype: The default dtype when None.
        """
        shape = (0,) if self.config.shape is None else self.config.shape
        return torch.zeros(shape, dtype=dtype, device=initial_device())

    def take_shape(self, shape: Sequence[int], device: torch.device) -> None:
        """Makes all values zeros of this shape, if they have none yet.

        :param shape: The losses', none of whose dimensions is zero.
        :param device: The losses'.
        :raises ValueError: if the values have another one.
        """
        known = self._values(self.per_loss[0])
        if not known.numel():
            for name in self.per_loss:
                self._make(name, shape, device)
        elif known.shape != tuple(shape):
            raise ValueError(
                f"{self.name} {self.origin_of_shape}, but was given losses of shape {list(shape)}"
            )

    @property
    def origin_of_shape(self) -> str:
        """Why the values have the shape that they have, for a message."""
        how = "first given" if self.config.shape is None else "made for"
        return f"was {how} losses of shape {list(self._values(self.per_loss[0]).shape)}"

    def _values(self, name: str) -> Tensor:
        values = getattr(self, name)
        assert isinstance(values, Tensor)
        return values

    @torch.no_grad()
    def _make(self, name: str, shape: Sequence[int], device: torch.device) -> None:
        values = self._values(name)
        zeros = torch.zeros(tuple(shape), dtype=values.dtype, device=device)
        if isinstance(values, nn.Parameter):
            values.grad = None
            values.data = zeros
        else:
            setattr(self, name, zeros)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        """Makes room for saved values of any shape before torch copies them."""
        for name in self.per_loss if self.config.shape is None else ():
            saved, values = state_dict.get(prefix + name), self._values(name)
            if isinstance(saved, Tensor) and saved.shape != values.shape:
                self._make(name, saved.shape, values.device)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
