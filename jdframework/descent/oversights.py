"""One warning each for what a training loop seems to have forgotten."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final, Literal

from torch import Tensor, nn

from jdframework.autograd.shared_modules import parameters_of, trained
from jdframework.bases import WeightedSum, Wrapper

_UNMOVED: Final = 3
"""How often the model must have changed while what the method learns has not."""
_UNTOLD: Final = 2
"""How often the model must have changed without ``after_update``.

Once may be the first step's; several backward passes that make one update change nothing between
them.
"""
_NO_EPOCH: Final = 1000
"""Steps without ``end_epoch``: most epochs are shorter, and in a longer one it can be told, too."""

Report = Literal["after_update", "end_epoch"]
"""What a training loop tells a method besides its losses."""
_REPORTS: Final[tuple[Report, ...]] = ("after_update", "end_epoch")


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
        self._awaited = {report for report in _REPORTS if awaits(method, report)}
        self._version: int | None = None
        self._changes = self._steps = 0

    def reported(self, report: Report) -> None:
        """Notes that the training loop does tell the method.

        :param report: Which of its reports.
        """
        self._awaited.discard(report)

    def look(self, losses: object, modules: Sequence[nn.Module]) -> None:
        """Looks at a step before it is taken.

        :param losses: As the user gave them.
        :param modules: Those whose parameters the objectives share.
        """
        self._look_for_one_objective(losses)
        self._look_for_weights_that_stay(modules)
        self._look_for_after_update(modules)
        self._look_for_end_epoch()

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
        learning = parameters_of(self._method)
        learned = [p for p in learning if p.requires_grad and p.grad is not None]
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

    def _look_for_after_update(self, modules: Sequence[nn.Module]) -> None:
        """Updates, and no word of the losses after them."""
        shared = trained(modules) if "after_update" in self._awaited else []
        if not shared:
            return
        before, self._version = self._version, shared[0]._version
        self._changes += before is not None and self._version != before
        if self._changes >= _UNTOLD:
            self._awaited.discard("after_update")
            warnings.warn(
                f"{self._method.name} learns from the losses after each update, but the model has "
                f"changed {_UNTOLD} times without: write descent.after_update(losses) after "
                f"optimizer.step(), with the losses of the same batch under the new parameters",
                stacklevel=4,
            )

    def _look_for_end_epoch(self) -> None:
        """Many steps, and no word of an epoch's end."""
        if "end_epoch" not in self._awaited:
            return
        self._steps += 1
        if self._steps > _NO_EPOCH:
            self._awaited.discard("end_epoch")
            warnings.warn(
                f"{self._method.name} goes by epochs, and has not been told the end of one in "
                f"{_NO_EPOCH} steps: write descent.end_epoch() at the end of each, or every few "
                f"hundred steps where epochs are longer",
                stacklevel=4,
            )


def awaits(method: Any, report: Report) -> bool:
    """Whether a method makes use of a report; a wrapper takes each, for what it wraps.

    :param method: A weighting, an aggregator or a scalarizer.
    :param report: What it may be told.
    """
    if isinstance(method, WeightedSum):
        return awaits(method.weighting, report)
    if isinstance(method, Wrapper) and getattr(type(method), report) is getattr(Wrapper, report):
        return any(awaits(inner, report) for inner in method.wrapped())
    return callable(getattr(method, report, None))
