"""The derivative of several objectives at one point, in whatever form an engine has it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from jdframework.errors import UnsupportedModelError
from jdframework.linearization.blocks import Gradients, as_reals, split, summed

Demand: TypeAlias = Literal["gramian", "cross-gramian", "columns", "rows"]
"""What will be asked of a linearization: its Gramian; the same beside the rows of another batch's;
all rows of a part of the columns at a time; or whole rows."""


class RowFunction:
    """A function of rows ``[m, n]``, which is called where the rows lie.

    :param function: Gives one value per row, or one per column.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def __call__(self, rows: Float[Tensor, "m n"]) -> Tensor:
        """What it gives, on the device of the rows."""
        return self._function(rows)

    def repeatable(self) -> AbstractContextManager[object]:
        """Where the body raises, a call in it has changed nothing, and may be made again."""
        return nullcontext()


@dataclass(frozen=True)
class Forecast:
    """What an engine expects of a step, before it takes it."""

    mode: str = ""
    """How it would go about it, as ``"one objective at a time"``; empty if it does not tell."""
    memory: int | None = None
    """How many bytes it would hold on the device at once, beyond an ordinary backward pass; None
    if it cannot tell."""
    dearer: str = ""
    """Why an engine that forms the Jacobian takes less time on this graph; empty if none does."""


class Linearization(ABC):
    """The Jacobian ``J [m, n]`` of ``m`` objectives at one point, in the form its engine has it.

    An engine makes one for each step. It is lazy: nothing is computed until it is asked for, and
    nothing is ever written to a ``.grad``. First come the Gramians, then one call for the update,
    after which the graph is freed unless it was to be retained. What the engine cannot serve is
    refused by :meth:`gramians` at the latest, before a method has seen anything of the step.
    """

    inputs: Sequence[Tensor]
    """What the columns belong to."""
    outside: Sequence[Tensor] = ()
    """Other leaves that the objectives depend on; they have no columns, but a part in ``vjp``."""
    groups: Sequence[Sequence[int]]
    """Positions of inputs that have a Gramian of their own, and are combined separately."""

    @abstractmethod
    def gramians(self) -> list[Float[Tensor, "m m"] | None]:
        """``J Jᵀ`` over each group's columns; None where no objective depends on the group.

        :raises UnsupportedModelError: if the engine cannot serve what it finds in the graph.
        """

    @abstractmethod
    def vjp(self, weights: Sequence[Float[Tensor, " m"] | None]) -> Gradients:
        """``Jᵀw``: the weighted sum of the objectives' gradients, for the inputs and those outside.

        :param weights: One per objective, for each group; None for a group that needs none.
        """

    def blocks(self) -> Iterator[tuple[int, Float[Tensor, "m *shape"]]]:
        """The Jacobian, one input's columns at a time: the position of the input, and its rows.

        In the order of the inputs, without those that no objective depends on.

        :raises UnsupportedModelError: if the engine has no rows.
        """
        raise UnsupportedModelError(
            f"{type(self).__name__} does not form the Jacobian: use jd.engine('autojac', …) or "
            f"jd.engine('chunked', …)"
        )

    def jacobian(self) -> tuple[Float[Tensor, "m *shape"] | None, ...]:
        """One block per input; None where no objective depends on it.

        :raises UnsupportedModelError: if the engine has no rows.
        """
        found = dict(self.blocks())
        return tuple(found.get(position) for position in range(len(self.inputs)))

    def weigh(self, function: RowFunction, group: int) -> Float[Tensor, " m"]:
        """Applies a function to a group's whole rows ``[m, n]``: one weight per objective.

        :param function: Gives ``[m]``.
        :param group: The group's number.
        """
        return function(self._joined(group)[1])

    def direct(self, function: RowFunction, group: int, *, column_wise: bool) -> Gradients:
        """Applies a function to a group's columns: one value each, as one tensor per input.

        :param function: Gives ``[n]`` of ``[m, n]``.
        :param group: The group's number.
        :param column_wise: Whether each value depends on its own column alone, so that the function
            may be given the columns in several calls, in their order.
        """
        positions, rows = self._joined(group)
        inputs = [self.inputs[i] for i in positions]
        return inputs, [*split(function(rows), inputs)]

    @property
    def unweighted(self) -> Gradients:
        """Gradients that belong to the update, and that no weight enters; usually none."""
        return [], []

    @property
    def covered(self) -> Sequence[Tensor]:
        """The tensors whose update is finite if the Gramians, and what is made of them, are."""
        return self.inputs

    def recorded(self, gramians: Sequence[Tensor | None]) -> Float[Tensor, "m m"] | None:
        """The Gramian over all columns, for the record of the step.

        :param gramians: What :meth:`gramians` gave.
        """
        return summed(gramians)

    def forecast(self) -> Forecast:
        """How it would go about the step, and how much it would hold; it computes nothing."""
        return Forecast()

    def close(self) -> None:
        """Releases what it holds; it is not used afterwards."""

    def _joined(self, group: int) -> tuple[list[int], Float[Tensor, "m n"]]:
        found = dict(self.blocks())
        positions = [i for i in self.groups[group] if i in found]
        flat = [as_reals(found[i]).reshape(len(found[i]), -1) for i in positions]
        return positions, torch.cat(flat, dim=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Wrapped(Linearization):
    """A linearization that changes something of another one.

    :param inner: The other one.
    """

    def __init__(self, inner: Linearization) -> None:
        self.inner = inner
        self.inputs, self.outside, self.groups = inner.inputs, inner.outside, inner.groups

    def gramians(self) -> list[Float[Tensor, "m m"] | None]:
        """See :meth:`Linearization.gramians`."""
        return self.inner.gramians()

    def vjp(self, weights: Sequence[Float[Tensor, " m"] | None]) -> Gradients:
        """See :meth:`Linearization.vjp`."""
        return self.inner.vjp(weights)

    def blocks(self) -> Iterator[tuple[int, Float[Tensor, "m *shape"]]]:
        """See :meth:`Linearization.blocks`."""
        return self.inner.blocks()

    def weigh(self, function: RowFunction, group: int) -> Float[Tensor, " m"]:
        """See :meth:`Linearization.weigh`."""
        return self.inner.weigh(function, group)

    def direct(self, function: RowFunction, group: int, *, column_wise: bool) -> Gradients:
        """See :meth:`Linearization.direct`."""
        return self.inner.direct(function, group, column_wise=column_wise)

    @property
    def unweighted(self) -> Gradients:
        """See :attr:`Linearization.unweighted`."""
        return self.inner.unweighted

    @property
    def covered(self) -> Sequence[Tensor]:
        """See :attr:`Linearization.covered`."""
        return self.inner.covered

    def recorded(self, gramians: Sequence[Tensor | None]) -> Float[Tensor, "m m"] | None:
        """See :meth:`Linearization.recorded`."""
        return self.inner.recorded(gramians)

    def forecast(self) -> Forecast:
        """See :meth:`Linearization.forecast`."""
        return self.inner.forecast()

    def close(self) -> None:
        """See :meth:`Linearization.close`."""
        self.inner.close()
