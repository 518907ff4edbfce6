"""Rollback: a step that fails leaves ``.grad`` and the method's state as they were."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self, cast

import torch
from torch import Tensor, nn


class Rollback(ABC):
    """A context that puts something back as it was if its body raises."""

    @abstractmethod
    def roll_back(self) -> None:
        """Puts everything back as it was when this was made."""

    def __enter__(self) -> None:
        pass

    @torch.no_grad()
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.roll_back()


class GradRollback(Rollback):
    """A context that puts ``.grad`` back as it was if its body raises.

    :param leaves: The tensors whose ``.grad`` the body may change.
    """

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        self._before = [
            (leaf, leaf.grad, None if leaf.grad is None else leaf.grad.clone()) for leaf in leaves
        ]

    def roll_back(self) -> None:
        """Puts every ``.grad`` back as it was."""
        for leaf, grad, copied in self._before:
            leaf.grad = grad if grad is None or copied is None else grad.copy_(copied)


class OwnGradients:
    """A context that collects what its body adds to ``.grad``, and puts ``.grad`` back.

    A method that learns adds to its own gradients. They are a part of the step's update, all of
    which is written at once.

    :param tensors: The method's parameters; usually none.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list({id(tensor): tensor for tensor in tensors}.values())
        self._before = [tensor.grad for tensor in self.tensors]

        self.gradients: list[Tensor | None] = []
        """What the body added, for each, once it is over."""

    def __enter__(self) -> Self:
        for tensor in self.tensors:
            tensor.grad = None
        return self

    def scaled(self, factor: Tensor | None) -> tuple[list[Tensor], list[Tensor | None]]:
        """The tensors, and what the body added, times a factor.

        :param factor: None multiplies by nothing.
        """
        if factor is None:
            return self.tensors, self.gradients
        return self.tensors, [None if g is None else g * factor for g in self.gradients]

    def __exit__(self, *_: object) -> None:
        self.gradients = [tensor.grad for tensor in self.tensors]
        for tensor, grad in zip(self.tensors, self._before, strict=True):
            tensor.grad = grad


class StateRollback(Rollback):
    """A context that puts a method's state back as it was if its body raises.

    What a method names in ``memory`` (:class:`~jdframework.bases.Remembering`) may be as large as
    the Jacobian; it is replaced in each step and never changed, so that a reference suffices.
    Everything else is copied. Putting it back takes no memory, a lack of which may be what was
    raised.

    :param method: A weighting, an aggregator or a scalarizer.
    """

    def __init__(self, method: nn.Module) -> None:
        self._before: list[tuple[nn.Module, str, Tensor | None, Tensor | None]] = []
        self._extra: list[tuple[nn.Module, Any]] = []
        self._names: list[tuple[nn.Module, Any]] = []
        for owner in method.modules():
            replaced: Sequence[str] = getattr(type(owner), "memory", ())
            names = getattr(owner, "objective_names", None)
            if names is not None:
                self._names.append((owner, names))
            for name, tensor in {**owner._buffers, **owner._parameters}.items():
                as_it_is = tensor is None or name in replaced
                copied = None if as_it_is else cast(Tensor, tensor).detach().clone()
                self._before.append((owner, name, tensor, copied))
            if type(owner).get_extra_state is not nn.Module.get_extra_state:
                self._extra.append((owner, copy.deepcopy(owner.get_extra_state())))

    def roll_back(self) -> None:
        """Puts the method's state back as it was."""
        for owner, name, tensor, copied in self._before:
            if tensor is not None and copied is not None:
                if tensor.shape == copied.shape:
                    tensor.copy_(copied)
                else:  # a parameter that the body gave its shape, and that is empty again
                    tensor.data = copied
            setattr(owner, name, tensor)
        for owner, state in self._extra:
            owner.set_extra_state(state)
        for owner, names in self._names:
            owner.objective_names = names


class CallRollback(StateRollback):
    """A ``StateRollback`` that puts torch's random generator back, too.

    :param method: The weighting or the aggregator that is called, perhaps once more.
    """

    def __init__(self, method: Any) -> None:
        super().__init__(method)
        self._random = torch.get_rng_state()

    def roll_back(self) -> None:
        """Puts ``.grad`` and state back as they were."""
        super().roll_back()
        torch.set_rng_state(self._random)
