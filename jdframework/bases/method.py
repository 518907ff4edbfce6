"""What weightings, aggregators and scalarizers share: a name, checked settings, saved state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from jdframework.bases.configured import Configured
from jdframework.bases.device import initial_device
from jdframework.bases.objective_names import NamedPlaces
from jdframework.config import Config, Nested, Paper, validated
from jdframework.errors import ConfigError

if TYPE_CHECKING:
    from jdframework.protocols.names import Need


class BaseMethod(Configured, NamedPlaces):
    """Base of every method: settings as keywords, validated by the class's ``Config``.

    A subclass sets ``Config`` (and annotates ``config`` with it for type checkers) and ``paper``.
    Constant tensors go into non-persistent buffers, state into persistent ones, so that
    ``state_dict()`` holds all of the state and nothing else.
    """

    paper: ClassVar[Paper | None] = None
    """Where the method was published."""
    needs: frozenset[Need] = frozenset()
    """What it looks at."""
    trainable: ClassVar[bool] = False
    """Whether it has parameters for the optimizer."""
    differentiable: bool = False
    """Whether an aggregator's direction has the Jacobian's graph, for a derivative of the update.

    It is that of ``Jᵀw`` for weights that do not change with ``J`` (but for jumps), or of
    coordinate-wise functions of ``J``. All other methods give a result without a graph.
    """
    claims: ClassVar[Mapping[str, Any]] = {}
    """Where the method promises something else than most, for the suites of
    :mod:`jdframework.testing`: class attributes of its suite, as ``{"scale": "invariant"}``."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = validated(self.Config, self.name, config)

    def extra_repr(self) -> str:
        """The settings that differ from their defaults."""
        given = self.config.model_dump(exclude_defaults=True)
        return ", ".join(f"{field}={value!r}" for field, value in given.items())

    def register_constant(self, name: str, values: Nested | None) -> None:
        """Keeps a setting as a float64 buffer that follows ``.to(device)`` but is not state.

        :param name: The buffer's name.
        :param values: The setting; the buffer is None where it is None.
        """
        constant = (
            None
            if values is None
            else torch.tensor(values, dtype=torch.float64, device=initial_device())
        )
        self.register_buffer(name, constant, persistent=False)

    def constant(
        self, name: str, m: int, like: Tensor, shape: Sequence[int] | None = None
    ) -> Float[Tensor, " m"]:
        """What :meth:`register_constant` keeps, in the dtype and on the device of ``like``.

        :param name: The buffer's, and the setting's.
        :param m: The number of objectives.
        :param like: A tensor of any shape.
        :param shape: The losses', where it is known: what is no plain list has to have it.
        :raises ConfigError: if it has not one value for each of the ``m`` objectives.
        """
        values = self.get_buffer(name)
        of_losses = "" if shape is None else f", of losses of shape {list(shape)}"
        if values.numel() != m:
            own = "" if values.ndim == 1 else f" in the shape {list(values.shape)}"
            raise ConfigError(
                f"{self.name}: {name} has {values.numel()} values{own}, but there are {m} "
                f"objectives{of_losses}"
            )
        if shape is not None and values.shape not in (tuple(shape), (m,)):
            raise ConfigError(
                f"{self.name}: {name} has the shape {list(values.shape)}, but the losses have the "
                f"shape {list(shape)}: give it that one, or a plain list"
            )
        return values.flatten().to(device=like.device, dtype=like.dtype, copy=True)

    def _is_fixed(self, name: str) -> bool:
        """State and parameters may have a setting's name."""
        is_state = name in self._buffers and name not in self._non_persistent_buffers_set
        return super()._is_fixed(name) and not is_state and name not in self._parameters

    def _take(self, name: str, config: Config) -> None:
        super()._take(name, config)
        if name in self._buffers:
            before = self._buffers[name]
            self.register_constant(name, getattr(config, name))
            if before is not None:
                self._buffers[name] = self.get_buffer(name).to(before.device)


class SeededConfig(Config):
    """Settings of a method that draws random numbers."""

    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Seed of the method's own generator; None draws from torch's global one.",
    )


class Randomised(BaseMethod):
    """Mix-in of a method that draws random numbers: reproducible under ``seed``, resumable.

    With a seed, the generator's state is part of ``state_dict()``; with ``seed=None`` the method
    draws from torch's global generator and has no state of its own.
    """

    Config: ClassVar[type[Any]] = SeededConfig

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._generator = self._fresh_generator()

    @property
    def generator(self) -> torch.Generator | None:
        """Where to draw from, on the CPU; None means torch's global generator."""
        return self._generator

    def reset(self) -> None:
        """Starts the sequence of random numbers anew."""
        self._generator = self._fresh_generator()

    def normal(self, *shape: int, like: Tensor) -> Float[Tensor, "..."]:
        """Standard normal numbers, drawn on the CPU so that every device gives the same ones.

        :param shape: Of what is drawn.
        :param like: A tensor of any shape, whose dtype and device they get.
        """
        drawn = torch.randn(shape, generator=self._generator, dtype=torch.float64, device="cpu")
        return drawn.to(device=like.device, dtype=like.dtype)

    def orders(self, m: int) -> Int[Tensor, "m others"]:
        """For each of ``m`` objectives the others in a random order of its own, ``[m, m - 1]``."""
        keys = torch.rand(m, m, generator=self._generator, dtype=torch.float64, device="cpu")
        return keys.fill_diagonal_(torch.inf).argsort(1)[:, :-1]

    def get_extra_state(self) -> Tensor:
        """The generator's state, for ``state_dict()``; empty without a seed."""
        if self._generator is None:
            return torch.empty(0, dtype=torch.uint8, device="cpu")
        return self._generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Puts it back.

        :param state: The generator's, of any shape that :meth:`get_extra_state` gave.
        :raises ConfigError: if one of the two was made with a seed and the other without.
        """
        if (self._generator is None) != (state.numel() == 0):
            saved = "with" if state.numel() else "without"
            raise ConfigError(
                f"{self.name}: the state was saved {saved} a seed, "
                f"but this instance has seed={self.config.seed}"
            )
        if self._generator is not None:
            self._generator.set_state(state.cpu())

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_generator"] = self.get_extra_state()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        generator_state = state.pop("_generator")
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch has no types here
        self._generator = self._fresh_generator()
        self.set_extra_state(generator_state)

    def _fresh_generator(self) -> torch.Generator | None:
        if self.config.seed is None:
            return None
        return torch.Generator("cpu").manual_seed(self.config.seed)
