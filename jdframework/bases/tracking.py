"""Running averages of gradients over the steps."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jdframework.bases.remembered_state import Remembering
from jdframework.bases.weighting import working_dtype


class Tracking(Remembering):
    """Mix-in of a method that follows the gradients: ``y ← y + share · (J - y)``, first ``y = 0``.

    A step computes :meth:`followed`, and calls :meth:`keep` once it knows that all is finite.
    """

    tracked: Tensor
    """``y`` ``[m, n]``."""
    steps: Tensor
    """How many were taken."""
    memory: ClassVar[tuple[str, ...]] = ("tracked", "steps")

    def falling(self, value: float, power: float, device: torch.device) -> Float[Tensor, ""]:
        """``value / k^power`` in the ``k``-th step, which is the one that is being taken.

        :param value: What it is in the first step.
        :param power: How it falls.
        :param device: Where it is to be.
        """
        number = self._steps(device) + 1
        return value / number.to(working_dtype(device)) ** power

    def followed(
        self, rows: Float[Tensor, "m n"], share: Float[Tensor, ""]
    ) -> Float[Tensor, "m n"]:
        """``y`` after the step that is being taken, which is not kept yet.

        :param rows: ``J``, or what is followed in its place.
        :param share: How far ``y`` goes towards it, from 0 to 1.
        :raises ConfigError: if the rows have another shape than those before.
        """
        return torch.lerp(self._before(rows), rows, share.to(rows))

    def keep(
        self, rows: Float[Tensor, "m n"], tracked: Float[Tensor, "m n"], finite: Bool[Tensor, ""]
    ) -> None:
        """Keeps ``y`` at the end of the step, unless it is not finite.

        :param rows: What was given to :meth:`followed`.
        :param tracked: What that gave.
        :param finite: Whether it counts.
        """
        self.tracked = torch.where(finite, tracked, self._before(rows))
        self.steps = self._steps(rows.device) + finite

    def _before(self, rows: Tensor) -> Tensor:
        return self.recalled("tracked", rows.new_zeros(()).expand_as(rows))

    def _steps(self, device: torch.device) -> Tensor:
        return self.recalled("steps", torch.zeros((), dtype=torch.int64, device=device))
