"""The scale by which a ``torch.amp.GradScaler`` multiplies losses, kept from methods and records.

Half precision needs large losses, a method those that were meant: many compare gradients with what
they remember from earlier steps, or losses with each other, and the scale changes on the way.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from jdframework.linalg.single import narrowed
from jdframework.linearization import Gradients, Linearization, RowFunction, Wrapped
from jdframework.linearization.objectives import Objectives


class LossScale:
    """The factor by which a ``GradScaler`` multiplies the losses of this step.

    :param scaler: The scaler; None multiplies by nothing.
    :param device: Where the losses are.
    """

    def __init__(self, scaler: GradScaler | None, device: torch.device) -> None:
        self._scaler = scaler
        self.factor: Tensor | None = None
        """``[]``, on the device, so that nothing waits for it; None if there is no scale."""
        if scaler is not None:
            self.factor = scaler.scale(torch.ones((), device=device))

    def scaled(self, value: Tensor) -> Tensor:
        """A value times the scale."""
        return value if self.factor is None else value * self.factor

    def unscaled(self, value: Tensor) -> Tensor:
        """A value that the scale is in, without it."""
        return value if self.factor is None else value / self.factor

    def scaled_losses(self, given: Objectives) -> Objectives:
        """The losses times the scale."""
        if self._scaler is None:
            return given
        return replace(given, tensors=tuple(self._scaler.scale(t) for t in given.tensors))

    def unscaled_linearization(self, lin: Linearization) -> Linearization:
        """Wraps a linearization of scaled losses so that a method does not see the scale."""
        return lin if self.factor is None else Scaled(lin, self.factor)

    def unscaled_products(self, product: Float[Tensor, "m m"]) -> Float[Tensor, "m m"]:
        """Inner products of gradients of scaled losses, without the scale."""
        return product if self.factor is None else _divided(product, self.factor, of_gramian=False)


def _divided(
    product: Float[Tensor, "m m"], factor: Float[Tensor, ""], *, of_gramian: bool
) -> Float[Tensor, "m m"]:
    """Inner products of rows, from those of rows times a factor.

    :param of_gramian: Whether they are a Gramian, whose diagonal tells what is large.
    """
    square = factor.to(product.device) ** 2
    if product.dtype != torch.float32 or product.device.type == "mps":
        return product / square
    wide = product.double() / square.double()
    return narrowed(wide, wide.diagonal() if of_gramian else None)


class Scaled(Wrapped):
    """A linearization of scaled losses: statistics without the scale, updates with it.

    :param inner: Of the losses times the scale.
    :param factor: The scale.
    """

    def __init__(self, inner: Linearization, factor: Float[Tensor, ""]) -> None:
        super().__init__(inner)
        self._factor = factor

    def gramians(self) -> list[Float[Tensor, "m m"] | None]:
        """The same gradients without the loss scale."""
        found = self.inner.gramians()
        return [
            None if each is None else _divided(each, self._factor, of_gramian=True)
            for each in found
        ]

    def weigh(self, function: RowFunction, group: int) -> Float[Tensor, " m"]:
        """Of the rows without the scale."""
        return self.inner.weigh(_Unscaled(function, self._factor, again=False), group)

    def direct(self, function: RowFunction, group: int, *, column_wise: bool) -> Gradients:
        """Of the rows without the scale, and times it."""
        unscaled = _Unscaled(function, self._factor, again=True)
        return self.inner.direct(unscaled, group, column_wise=column_wise)


class _Unscaled(RowFunction):
    """A function of rows without their scale.

    :param function: What it is.
    :param factor: The scale.
    :param again: Whether what it gives is times the scale, again.
    """

    def __init__(self, function: RowFunction, factor: Tensor, *, again: bool) -> None:
        super().__init__(function)
        self._inner, self._factor, self._again = function, factor, again

    def __call__(self, rows: Float[Tensor, "m n"]) -> Tensor:
        """See :class:`~jdframework.linearization.RowFunction`."""
        factor = self._factor.to(rows.device)
        answer = self._inner(rows / factor)
        return answer * factor if self._again else answer

    def repeatable(self) -> AbstractContextManager[object]:
        """See :class:`~jdframework.linearization.RowFunction`."""
        return self._inner.repeatable()
