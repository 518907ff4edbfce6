"""Bases of scalarizers: the values of the losses in, one scalar out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jdframework.bases.method import BaseMethod
from jdframework.bases.shaped import Shaped
from jdframework.bases.weighting import at_least_float32, check_floating
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
        self.check(losses)
        value = super().__call__(losses.to(at_least_float32(losses.dtype)))
        if not isinstance(value, Tensor) or value.ndim:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(
                f"the scalarizer {self.name!r} must return a tensor of shape [], but returned {got}"
            )
        return value.to(losses.dtype)

    def check(self, losses: Float[Tensor, "..."], /) -> None:
        """Refuses what no scalarizer takes, before :meth:`forward` sees it.

        :param losses: As they were given.
        :raises ValueError: if there is none, or they are not of floating dtype.
        """
        check_floating(self, losses)
        if not losses.numel():
            raise ValueError(f"{self.name} needs at least one loss, but was given none")

    def preference(self, name: str, losses: Float[Tensor, "..."]) -> Float[Tensor, " m"]:
        """A setting with one number per loss, in the order of ``losses.flatten()``.

        :param name: That of a constant (:meth:`register_constant`), which is 1/m each if None.
        :param losses: Those to weigh.
        :raises ConfigError: if it is neither a list of ``m`` nor of the losses' shape.
        """
        m = losses.numel()
        if getattr(self, name) is None:
            return losses.new_full((m,), 1 / m)
        return self.constant(name, m, losses, losses.shape)

    @abstractmethod
    def forward(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """The method's mathematics, of ``losses`` of any shape."""


class TrainableScalarizer(Shaped, Scalarizer):
    """Base of a scalarizer with one trainable value ``s`` per loss, zero at the start.

    Give ``parameters()`` to the optimizer, without weight decay, before or after the first call.
    Without the setting ``shape``, ``s`` is empty until that call; ``torch.optim.Adagrad``, which
    wants to know the shape when it is made, needs the setting.
    """

    trainable: ClassVar[bool] = True
    per_loss: ClassVar[tuple[str, ...]] = ("s",)

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.s = nn.Parameter(self.initial())

    def check(self, losses: Float[Tensor, "..."], /) -> None:
        """Takes the shape of the first losses, and refuses others.

        :param losses: Values of the configured shape, or of any.
        :raises ValueError: if they have another shape than ``s``.
        """
        super().check(losses)
        self.take_shape(losses.shape, losses.device)

    @torch.no_grad()
    def reset(self) -> None:
        """Puts every ``s`` back to zero; the shape stays, as an optimizer may know it."""
        self.s.zero_()
