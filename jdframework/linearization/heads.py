"""The trunk's linearization below the features, beside the plain gradients of the heads."""

from __future__ import annotations

from jdframework.linearization.blocks import Gradients
from jdframework.linearization.features import Cut
from jdframework.linearization.protocol import Linearization, Wrapped


class WithHeads(Wrapped):
    """A linearization of the trunk, whose update has the heads' own plain gradients, too.

    :param inner: Of the trunk below the features.
    :param cut: What the heads' part of the graph gave.
    """

    def __init__(self, inner: Linearization, cut: Cut) -> None:
        super().__init__(inner)
        self._heads: Gradients = (cut.head_params, cut.head_gradients)

    @property
    def unweighted(self) -> Gradients:
        """The heads' parameters and their gradients."""
        return self._heads
