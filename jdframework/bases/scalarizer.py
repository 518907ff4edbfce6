"""Bases of scalarizers: the values of the losses in, one scalar out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor, nn

from jdframework.bases.device import initial_device
from jdframework.bases.method import BaseMethod
from jdframework.bases.weighting import at_least_float32, check_floating
from jdframework.config import Config
from jdframework.protocols.names import Kind, Need


class Scalarizer(BaseMethod, ABC):
    """Base of what combines the losses into one scalar, for one ordinary backward pass.

    ``forward`` receives the losses with their graph, and half precision as float32.
    """

    kind: ClassVar[Kind] = "scalarizer"
    needs: frozenset[Need] = frozenset({"losses"})
    fixed_weights: ClassVar[bool] = False
    """Whether each loss has the same weight in every step, whatever the losses are.

    In a job of several processes, the average of what each makes of its own losses is then the step
    on all of them.
    """

    def __call__(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """The scalar, differentiable in the losses.

        :param losses: Values of any shape, at least one, any floating dtype.
        :raises ValueError: if there is none, or they are not of floating dtype.
        """
        check_floating(self, losses)
        if not losses.numel():
            raise ValueError(f"{self.name} needs at least one loss, but was given none")
        value = super().__call__(losses.to(at_least_float32(losses.dtype)))
        if not isinstance(value, Tensor) or value.ndim:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(
                f"the scalarizer {self.name!r} must return a tensor of shape [], but returned {got}"
            )
        return value.to(losses.dtype)

    @abstractmethod
    def forward(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """The method's mathematics, of ``losses`` of any shape."""


_MOST: Final = 10**9
"""Of losses, each of which takes some bytes."""


class ShapedConfig(Config):
    """Settings of a scalarizer that keeps one value per loss."""

    shape: tuple[int, ...] = Field(description="Shape of the losses, as an int or a tuple of ints.")

    @field_validator("shape", mode="before")
    @classmethod
    def _int_is_one_dimension(cls, shape: Any) -> Any:
        return (shape,) if isinstance(shape, int) else shape

    @field_validator("shape")
    @classmethod
    def _positive(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if any(size < 1 for size in shape):
            raise ValueError("every dimension must be at least 1")
        if math.prod(shape) > _MOST:
            raise ValueError(f"at most {_MOST} losses are possible")
        return shape


class TrainableScalarizer(Scalarizer):
    """Base of a scalarizer with one trainable value ``s`` per loss, zero at the start.

    Give ``parameters()`` to the optimizer, without weight decay.
    """

    trainable: ClassVar[bool] = True
    Config: ClassVar[type[Any]] = ShapedConfig

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.s = nn.Parameter(torch.zeros(self.config.shape, device=initial_device()))

    def __call__(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """The scalar, differentiable in the losses and in ``s``.

        :param losses: Values of the configured shape.
        :raises ValueError: if their shape is another.
        """
        if losses.shape != self.s.shape:
            raise ValueError(
                f"{self.name} was made for losses of shape {list(self.s.shape)}, "
                f"but was given losses of shape {list(losses.shape)}"
            )
        return super().__call__(losses)

    @torch.no_grad()
    def reset(self) -> None:
        """Puts every ``s`` back to zero."""
        self.s.zero_()
