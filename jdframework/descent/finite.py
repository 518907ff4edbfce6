"""The finite check: NaN and infinity are refused before any of it reaches ``.grad``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from jdframework.autograd.graph import graph_of, is_of_nothing
from jdframework.errors import NonFiniteError
from jdframework.linearization import summed
from jdframework.linearization.combination import Combination, weighting_of
from jdframework.linearization.objectives import Objectives

_REMEDY: Final = "on_nonfinite='skip' would leave such steps out"
_EMPTY: Final = ", as it was computed from a tensor without entries (an empty batch?)"
_ALONE: Final = ", and 'drop' only what is not finite"
"""What may be done about a loss that was given by itself."""


class PropagatedError(NonFiniteError):
    """Ends a step that propagates NaN, before the method sees, and remembers, such a Gramian.

    :param gramian: Of which a diagonal entry is not finite.
    """

    def __init__(self, gramian: Float[Tensor, "m m"]) -> None:
        super().__init__("a gradient is not finite, and goes on to .grad as NaN")
        self.gramian = gramian


@dataclass(frozen=True)
class FiniteCheck:
    """Checks that what a step computes, from the losses to ``.grad``, is finite.

    Each look raises :class:`~jdframework.errors.NonFiniteError`, which names the step and, where
    it can be told, the objective. Nothing is looked at twice, as each look waits for the device.

    :param step: The step's number.
    :param given: The objectives.
    :param method: What combines them.
    :param parameter_names: Called where a parameter is to be named, which is given by its identity.
    :param asked: False if nothing is to be refused; the method is then just not shown it, unless it
        claims to be ``robust``.
    """

    step: int
    given: Objectives
    method: Any
    parameter_names: Callable[[], Mapping[int, str]]
    asked: bool

    def losses(self, values: Float[Tensor, "..."], given: Objectives | None = None) -> None:
        """Refuses a loss that is not finite.

        :param values: The losses.
        :param given: What they are called, if it is not the step's own objectives.
        """
        if self.asked and not bool(torch.isfinite(values.sum())):
            given = given or self.given
            cause = _EMPTY if is_of_nothing(given.tensors) else ""
            alone = _ALONE if len(given.tensors) > 1 else ""
            self._refuse(given, values, "the loss", cause, _REMEDY + alone)

    def gramians(self, gramians: Sequence[Float[Tensor, "m m"] | None]) -> None:
        """Refuses a gradient that is not finite, as its squared norm shows.

        :param gramians: One for each group of parameters.
        :raises PropagatedError: instead, if nothing is to be refused.
        """
        gramian = summed(gramians)
        if gramian is None or not (self.asked or not self._is_robust):
            return
        norms = gramian.diagonal()
        if not self.asked and not bool(torch.isfinite(norms).all()):
            raise PropagatedError(gramian)
        if not bool(torch.isfinite(norms.sum())):
            dtype = str(norms.dtype).removeprefix("torch.")
            self._refuse(self.given, norms, "the gradient", f", or its square is not in {dtype}")

    def gradients(
        self,
        tensors: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        weights: Float[Tensor, "..."] | None = None,
    ) -> None:
        """Refuses a gradient that is not finite, of several objectives together.

        :param tensors: Leaves.
        :param gradients: One each, or None.
        :param weights: Of the objectives, one of which may be the cause.
        """
        if not self.asked or _are_finite([g for g in gradients if g is not None]):
            return
        if weights is not None:
            self._refuse(self.given, weights, f"{self.method.name}'s weight")
        tensor = next(
            tensor
            for tensor, gradient in zip(tensors, gradients, strict=True)
            if gradient is not None and not _are_finite([gradient])
        )
        name = self.parameter_names().get(id(tensor))
        which = f"of shape {list(tensor.shape)}" if name is None else repr(name)
        raise NonFiniteError(
            f"step {self.step}: all losses are finite, but the gradient of "
            f"{self._reaching(tensor)} with respect to the parameter {which} is not; {_REMEDY}"
        )

    def combination(self, made: Combination) -> None:
        """Refuses weights, or directions, that are not finite, before their use.

        :param made: What the method answered.
        """
        if not self.asked:
            return
        for member, weights in zip(made.members, made.weights, strict=True):
            if weights is None or _are_finite([weights]):
                continue
            if weights.numel() == self.given.m:
                self._refuse(self.given, weights, f"{member.name}'s weight")
            self._refuse_answer(member.name)
        if not _are_finite([d for d in made.directions[1] if d is not None]):
            self._refuse_answer(self.method.name)

    @property
    def _is_robust(self) -> bool:
        return bool(weighting_of(self.method).claims.get("robust"))

    def _refuse_answer(self, name: str) -> None:
        raise NonFiniteError(
            f"step {self.step}: all gradients are finite, but what {name} made of them is not; "
            f"{_REMEDY}"
        )

    def _refuse(
        self,
        given: Objectives,
        values: Tensor,
        what: str,
        doubt: str = "",
        remedy: str = _REMEDY,
    ) -> None:
        bad = [given.names[int(i)] for i in torch.nonzero(~torch.isfinite(values).reshape(-1))]
        if bad:
            raise NonFiniteError(
                f"step {self.step}: {what} of objective {_listed(bad)} is not finite{doubt}; "
                f"{remedy}"
            )

    def _reaching(self, tensor: Tensor) -> str:
        """The objectives that depend on a tensor; all, where they are entries of one tensor."""
        names = self.given.names
        if len(self.given.tensors) > 1:
            pairs = zip(names, self.given.tensors, strict=True)
            names = tuple(name for name, loss in pairs if graph_of([loss]).reaches(tensor))
        return f"objective {_listed(names)}{' (added up)' if len(names) > 1 else ''}"


def _are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all entries are, with one wait for the device where they are.

    A sum is finite only if all its terms are, and takes a fifteenth of the time of a largest entry.
    It may overflow although they are, so that where it is not, each entry is looked at.
    """
    sums = [_sum(tensor) for tensor in tensors if tensor.numel()]
    if not sums:
        return True
    if len({each.device for each in sums}) > 1:
        sums = [each.to(sums[0].device) for each in sums]
    if bool(torch.stack(sums).sum().isfinite()):
        return True
    return all(bool(_stored(tensor).isfinite().all()) for tensor in tensors)


def _sum(tensor: Tensor) -> Float[Tensor, ""]:
    """In single precision at least: in half, the sum of quite ordinary numbers overflows."""
    entries = _stored(tensor)
    return entries.sum(dtype=torch.float32) if entries.dtype.itemsize == 2 else entries.sum()


def _stored(tensor: Tensor) -> Tensor:
    """The entries that a sparse tensor has."""
    return tensor if tensor.layout == torch.strided else tensor.coalesce().values()


def _listed(names: Sequence[str]) -> str:
    several = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + several
