"""Remembered state whose shape is known at the first call: of the objectives or the parameters."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from jdframework.bases.device import initial_device
from jdframework.bases.method import BaseMethod
from jdframework.errors import ConfigError


class Remembering(BaseMethod):
    """Mix-in of a method that remembers tensors whose shape its settings do not tell.

    Each is a buffer, empty until the method assigns it, and part of ``state_dict()``. A saved one
    of any shape loads strictly into a fresh instance. A method assigns a new tensor and never
    changes the one that is there, so that a step that fails can be undone without a copy.
    """

    memory: ClassVar[tuple[str, ...]] = ()
    """The buffers' names."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        for name in self.memory:
            self.register_buffer(name, torch.zeros(0, device=initial_device()))

    def recalled(self, name: str, initial: Tensor) -> Tensor:
        """What is remembered under ``name``; ``initial`` before the first step.

        :param name: The buffer's name.
        :param initial: The value to start from, of the shape, dtype and device to use.
        :raises ConfigError: if what is remembered has another shape.
        """
        kept = self.get_buffer(name)
        if not kept.numel():
            return initial
        if kept.shape != initial.shape:
            raise ConfigError(
                f"{self.name} remembers {name} of shape {list(kept.shape)}, but now there are "
                f"{list(initial.shape)}: call reset() first, or use one instance for each"
            )
        return kept.to(initial)

    def reset(self) -> None:
        """Forgets everything."""
        for name in self.memory:
            setattr(self, name, torch.zeros(0, device=self.get_buffer(name).device))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        """Makes room for saved buffers of any shape before torch copies them."""
        for name in self.memory:
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor):
                device = self.get_buffer(name).device
                setattr(self, name, torch.empty_like(saved, device=device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)
