"""The scale by which a ``torch.amp.GradScaler`` multiplies losses, kept from methods and records.

Half precision needs large losses, a method those that were meant: many compare gradients with what
they remember from earlier steps, or losses with each other, and the scale changes on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from jdframework.combination import groups_of
from jdframework.objectives import Objectives
from jdframework.outcome import Outcome


class LossScale:
    """What a scaler multiplies by in this step.

    :param scaler: The scaler.
    :param device: Where the losses are.
    """

    def __init__(self, scaler: GradScaler, device: torch.device) -> None:
        self._scaler = scaler
        self.factor: Tensor = scaler.scale(torch.ones((), device=device))
        """``[]``, on the device, so that nothing waits for it."""

    def scaled(self, given: Objectives) -> Objectives:
        """The losses times the scale."""
        return replace(given, tensors=tuple(self._scaler.scale(t) for t in given.tensors))

    def unscaled(self, outcome: Outcome) -> Outcome:
        """What the step would have found without the scale."""
        gramian = outcome.gramian
        return outcome if gramian is None else replace(outcome, gramian=gramian / self.factor**2)

    @contextmanager
    def hidden_from(self, method: Any, blocks: int) -> Iterator[None]:
        """Within it, a method sees what it would without the scale.

        The direction of an aggregator, and the gradients of trainable settings, come out scaled, as
        the optimizer's other gradients are.

        :param method: A weighting or an aggregator.
        :param blocks: How many blocks its Jacobian has.
        """
        before = [(p, None if p.grad is None else p.grad.clone()) for p in method.parameters()]
        with ExitStack() as hooks:
            for one, _ in groups_of(method, blocks):
                called = getattr(one, "weighting", one)
                hooks.callback(self._hide_input(called).remove)
                if called.kind == "aggregator":
                    hooks.callback(self._scale_output(called).remove)
            yield
        for parameter, grad in before:
            if parameter.grad is not None:
                added = parameter.grad if grad is None else parameter.grad - grad
                parameter.grad = added * self.factor if grad is None else grad + added * self.factor

    def _hide_input(self, called: Any) -> Any:
        by_rows = called.kind == "aggregator" or "jacobian" in called.needs
        factor = self.factor if by_rows else self.factor**2

        def divide(_: nn.Module, given: tuple[Tensor], extra: dict[str, Tensor]) -> Any:
            (statistic,) = given
            losses = {name: value / _at(self.factor, value) for name, value in extra.items()}
            return (statistic / _at(factor, statistic),), losses

        return called.register_forward_pre_hook(divide, with_kwargs=True)

    def _scale_output(self, called: Any) -> Any:
        return called.register_forward_hook(lambda *step: step[-1] * _at(self.factor, step[-1]))


def _at(factor: Tensor, like: Tensor) -> Tensor:
    """Rows that chunked keeps on the host are given to a method there."""
    return factor.to(like.device)
