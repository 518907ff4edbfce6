"""What a plugin must be, structurally. The base classes in :mod:`jdframework.bases` fulfil it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from torch.nn import Parameter

    from jdframework.config import Config, Paper
    from jdframework.protocols.names import Need


class Configured(Protocol):
    """What methods and engines share: a name, validated settings, needs."""

    Config: ClassVar[type[Config]]
    """The model of the settings."""
    paper: ClassVar[Paper | None]
    """Where it was published."""
    needs: frozenset[Need]
    """What it looks at."""

    @property
    def name(self) -> str:
        """The canonical name."""

    @property
    def config(self) -> Any:
        """The frozen settings."""


class Method(Configured, Protocol):
    """A weighting, an aggregator or a scalarizer: a ``torch.nn.Module`` with settings."""

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The trainable parameters; with ``recurse``, those of its own modules too."""

    def state_dict(self) -> dict[str, Any]:
        """All of the method's state."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """Puts a ``state_dict`` back; if ``strict``, one with exactly the same keys."""

    def to(self, device: Any) -> Any:
        """Moves the method's tensors to ``device``."""


class Weighting(Method, Protocol):
    """Maps a statistic of the Jacobian, nearly always the Gramian, to weights."""

    def __call__(self, statistic: Tensor, /, **extra: Tensor) -> Float[Tensor, " m"]:
        """``statistic`` is ``[m, m]`` for a Gramian and ``[m, n]`` for a Jacobian."""


class Aggregator(Method, Protocol):
    """Maps the Jacobian to one direction."""

    def __call__(self, jacobian: Float[Tensor, "m n"], /, **extra: Tensor) -> Float[Tensor, " n"]:
        """The direction, one value per column."""


class Scalarizer(Method, Protocol):
    """Maps the values of the losses to one scalar that can be differentiated."""

    def __call__(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """The scalar that is minimised."""


@runtime_checkable
class Stateful(Protocol):
    """A method that remembers earlier steps."""

    def reset(self) -> None:
        """Forgets what was remembered of earlier steps."""


@runtime_checkable
class ActsAfterUpdate(Protocol):
    """A method that wants the losses again, after the optimizer's step (FAMO)."""

    def after_update(self, losses: Float[Tensor, " m"], /) -> None:
        """``losses`` are those of the same batch under the new parameters."""


@runtime_checkable
class HasEpochs(Protocol):
    """A method that is told when an epoch ends (DWA)."""

    def end_epoch(self) -> None:
        """The epoch is over."""


@runtime_checkable
class TakesBatches(Protocol):
    """A method that says how many independent batches it takes besides that of the losses.

    With one, the cross-gramian is that of the losses' batch and the independent one. With two, it
    is that of these two. Either way the update is the weighted sum of the losses' own gradients.
    """

    independent_batches: tuple[int, ...]
    """A subset of ``(1, 2)``; a method of the cross-gramian that does not say takes either."""


@runtime_checkable
class TreatsGroups(Protocol):
    """A method that treats groups of parameters separately, each by a method of its own."""

    def bind(self, names: Sequence[str], known: Sequence[str]) -> None:
        """Is told what the blocks of the Jacobian belong to, before each step.

        :param names: The names of the parameters that are trained now, one per block.
        :param known: The names of all parameters, the frozen ones too, in their order.
        """

    def groups(self, blocks: int) -> Sequence[tuple[Any, Sequence[int]]]:
        """Which method serves which blocks of a Jacobian.

        :param blocks: How many blocks it has.
        :return: Per group, a weighting or an aggregator, and its blocks' positions; each position
            in one group.
        """
