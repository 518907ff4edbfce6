"""What a rule is given, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from jd_plugin_autogram.pieces import Piece, Rows


@dataclass
class Use:
    """One call of a layer, seen from the objectives."""

    layer: Any
    """The layer, of one of the rule's types."""
    inputs: tuple[Any, ...]
    """The positional arguments: row i of each tensor belongs to objective i, unless ``shared``."""
    kwargs: dict[str, Any]
    gradients: tuple[Tensor | None, ...]
    """The gradient of each output that requires one: row i belongs to objective i."""
    training: bool
    """Whether the layer was in training mode at the call."""
    shared: bool = False
    """Whether all objectives share the inputs, as tasks do: ``inputs`` are then those of the call,
    without a dimension of objectives."""

    @property
    def gradient(self) -> Tensor:
        """That of the only output."""
        gradient = self.gradients[0]
        assert gradient is not None
        return gradient


class Rule(ABC):
    """How layers of some types contribute. Stateless; one instance serves all layers."""

    layers: ClassVar[tuple[type[nn.Module], ...]]
    """The layer types, not their subclasses."""
    positionwise: ClassVar[bool] = False
    """Whether the layer treats all leading dimensions alike, so that ``[m·t, …]`` may be given."""
    whole: ClassVar[bool] = False
    """Whether the rule also covers the parameters of the layer's submodules."""

    @abstractmethod
    def rows(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Tensor]:
        """The rows of the Jacobian, ``[m, *shape]`` per wanted parameter."""

    def pieces(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Piece]:
        """The same in the cheapest form; the rows themselves unless the rule knows better."""
        return [Rows(wanted, self.rows(use, wanted))]

    def refusal(self, layer: Any) -> str | None:
        """Why a layer as it is set now cannot be served, and the remedy; None if it can."""
        return None
