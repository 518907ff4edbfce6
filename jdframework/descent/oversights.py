"""One warning each for what a training loop seems to have forgotten."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

from torch import Tensor, nn

from jdframework.autograd.modules import trained

_UNMOVED: Final = 3
"""How often the model must have changed while what the method learns has not."""


class Oversights:
    """Looks at each step for what nobody meant, and says it once.

    :param method: A weighting, an aggregator or a scalarizer.
    :param batch_dim: The dimension of independent instances, if there is one.
    """

    def __init__(self, method: Any, batch_dim: int | None) -> None:
        self._method, self._batch_dim = method, batch_dim
        self._said_one = self._said_unmoved = False
        self._versions: tuple[int, int] | None = None
        self._unmoved = 0

    def look(self, losses: object, modules: Sequence[nn.Module]) -> None:
        """Looks at a step before it is taken.

        :param losses: As the user gave them.
        :param modules: Those whose parameters the objectives share.
        """
        self._look_for_one_objective(losses)
        self._look_for_weights_that_stay(modules)

    def _look_for_one_objective(self, losses: object) -> None:
        """A tensor without dimensions is one objective, whatever it was the mean of."""
        if self._said_one or not isinstance(losses, Tensor) or losses.ndim:
            return
        self._said_one = True
        what = "reduction='none', and then one loss per instance"
        if self._batch_dim is None:
            what = "backward([loss_1, loss_2]) for several tasks, or reduction='none' for instances"
        warnings.warn(
            f"losses is one scalar, which is plain training: {self._method.name} has nothing to "
            f"weigh. Losses that were averaged or added up are one objective; give {what}",
            stacklevel=4,
        )

    def _look_for_weights_that_stay(self, modules: Sequence[nn.Module]) -> None:
        """An optimizer changes a tensor's version, however small its step."""
        if self._said_unmoved:
            return
        learned = [p for p in self._method.parameters() if p.requires_grad and p.grad is not None]
        shared = trained(modules) if learned else []
        if not shared:
            return
        now = shared[0]._version, sum(p._version for p in learned)
        before, self._versions = self._versions, now
        if before is None or now[0] == before[0]:
            return
        self._unmoved = self._unmoved + 1 if now[1] == before[1] else 0
        if self._unmoved >= _UNMOVED:
            self._said_unmoved = True
            warnings.warn(
                f"what {self._method.name} learns has stayed the same for {_UNMOVED} steps while "
                f"the model changed: give it to an optimizer, too, as in "
                f"torch.optim.Adam([*model.parameters(), *descent.parameters()])",
                stacklevel=4,
            )
