"""One warning each for what a training loop seems to have forgotten."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final, Literal

from torch import Tensor, nn

from jdframework.autograd.changes import Snapshot, version_of
from jdframework.autograd.shared_modules import parameters_of, trained
from jdframework.bases import WeightedSum, Wrapper
from jdframework.linearization.combination import weighting_of

_UNMOVED: Final = 20
"""How often the model must have changed while what the method learns has not.

Its optimizer may step more rarely: once for sixteen parts of a large batch, say.
"""
_DISCARDED: Final = 20
"""How often ``.grad`` must have been cleared while the model has not changed.

A gradient scaler's first scale, 2¹⁶, may be too large for the first sixteen updates.
"""
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
        self._unmoved = 0
        self._model_version: int | None = None
        self._learned: Snapshot | None = None
        self._may_discard = True
        self._discarded = 0
        self._model: Snapshot | None = None
        self._written: list[Tensor] = []
        self._written_version = 0
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
        self._look_for_updates_that_are_discarded()
        self._look_for_weights_that_stay(modules)
        self._look_for_after_update(modules)
        self._look_for_end_epoch()

    def look_back(self, modules: Sequence[nn.Module], *, skipped: bool) -> None:
        """Looks at what a step has left in ``.grad``, until the first update of the model.

        :param modules: Those whose parameters the objectives share.
        :param skipped: Whether the step was left out, so that there is no update to lose.
        """
        if not self._may_discard:
            return
        shared = trained(modules)
        is_training = any(module.training for module in modules)
        is_of_use = is_training and not skipped
        self._written = [p for p in shared if p.grad is not None] if is_of_use else []
        self._written_version = version_of(_gradients(self._written))
        if self._model is None:
            self._model = Snapshot(shared)

    def _look_for_one_objective(self, losses: object) -> None:
        """A tensor without dimensions is one objective, whatever it was the mean of."""
        if self._said_one or not isinstance(losses, Tensor) or losses.ndim:
            return
        if self._batch_dim is None and not _weighs(self._method):
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

    def _look_for_updates_that_are_discarded(self) -> None:
        """Gradients that are cleared again and again, and parameters that stay as they are."""
        if not self._may_discard or self._model is None:
            return
        if self._model.has_later_versions():
            self._may_discard, self._model, self._written = False, None, []
            return
        left = _gradients(self._written)
        is_cleared = version_of(left) != self._written_version if left else bool(self._written)
        self._discarded += is_cleared
        if self._discarded < _DISCARDED or not is_cleared:
            return
        if any(bool(gradient.any()) for gradient in left):  # clipped, say, and not cleared
            self._discarded = 0
            return
        self._may_discard = False
        if self._model.is_kept():
            warnings.warn(
                f".grad was cleared {_DISCARDED} times, but no parameter of the given modules has "
                f"changed in all these steps: call descent.backward between zero_grad() and step() "
                f"of an optimizer that has these parameters. A trainer that does "
                f"both by itself clears what is called in training_step: make it leave them to you "
                f"(in Lightning, self.automatic_optimization = False); see 'When the loop is "
                f"somebody else's' in the documentation",
                stacklevel=4,
            )
        self._model, self._written = None, []

    def _look_for_weights_that_stay(self, modules: Sequence[nn.Module]) -> None:
        """An optimizer changes a tensor's version, however small its step."""
        if self._said_unmoved:
            return
        learning = parameters_of(self._method)
        learned = [p for p in learning if p.requires_grad and p.grad is not None]
        shared = trained(modules) if learned else []
        if not shared:
            return
        before, self._model_version = self._model_version, shared[0]._version
        if before is None or self._learned is None or self._learned.has_later_versions():
            self._learned, self._unmoved = Snapshot(learned), 0
            return
        self._unmoved += self._model_version != before
        if self._unmoved < _UNMOVED:
            return
        if not self._learned.is_kept():
            self._learned, self._unmoved = Snapshot(learned), 0
            return
        self._said_unmoved, self._learned = True, None
        warnings.warn(
            f"what {self._method.name} learns has stayed the same for {_UNMOVED} updates of the "
            f"model: give it to an optimizer, too, as in "
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


def _gradients(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.grad for tensor in tensors if tensor.grad is not None]


def _weighs(method: Any) -> bool:
    """Whether a method makes something of several objectives that it cannot of one.

    :param method: A weighting, an aggregator or a scalarizer.
    """
    if method.kind == "scalarizer":
        return not getattr(method, "fixed_weights", False)
    return bool(weighting_of(method).needs)


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
