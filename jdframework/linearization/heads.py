"""The trunk's linearization below the features, beside the plain gradients of the heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from jdframework import linalg
from jdframework.autograd.graph import gradients, weighted_starts
from jdframework.linearization.blocks import Gradients, joined
from jdframework.linearization.features import Cut, OnFeatures
from jdframework.linearization.protocol import Linearization, Wrapped
from jdframework.linearization.rows import JacobianRows


class WithHeads(Wrapped):
    """The trunk's linearization, whose update includes the gradients of the rest of the graph.

    Heads get their own plain gradient; what the features depend on outside of the trunk, such as
    layers before it, gets the weighted one, by one more pass.

    :param inner: Of the trunk below the features; its graph stays if there is anything outside.
    :param cut: What the heads' part of the graph gave.
    :param retain_graph: Whether the graph can be used again.
    """

    def __init__(self, inner: Linearization, cut: Cut, retain_graph: bool) -> None:
        super().__init__(inner)
        self._cut, self._retain = cut, retain_graph
        self.outside = cut.below

    def vjp(self, weights: Sequence[Float[Tensor, " m"] | None]) -> Gradients:
        """See :meth:`jdframework.linearization.Linearization.vjp`."""
        found = super().vjp(weights)
        if not self.outside or weights[0] is None:
            return found
        outputs, starts = self._cut.outputs, self._cut.starts
        if starts is None:
            start = weighted_starts(weights[0], outputs)
        else:
            start = [*linalg.weighted_sum(starts, weights[0])]
        outside = gradients(outputs, self.outside, start, self._retain)
        return joined(found, ([*self.outside], outside))

    @property
    def unweighted(self) -> Gradients:
        """The heads' parameters and their gradients."""
        return self._cut.head_params, self._cut.head_gradients


def on_features(cut: Cut, shared: Sequence[Tensor], retain_graph: bool) -> Linearization:
    """The linearization of the losses with respect to the features.

    :param cut: The losses, cut at the features.
    :param shared: The trunk's parameters; none if all are frozen.
    :param retain_graph: Whether the graph can be used again.
    :raises ValueError: see :func:`heads_alone`.
    """
    if not shared:
        return heads_alone(cut)
    trunk = OnFeatures(cut, shared, retain_graph)
    return WithHeads(trunk, replace(cut, below=()), retain_graph)


def heads_alone(cut: Cut) -> Linearization:
    """What is left of a step where nothing shared is trained: the heads' plain gradients.

    :param cut: The losses, cut at the features.
    :raises ValueError: if there is something else, which no method has weights for.
    """
    if cut.below:
        raise ValueError(
            f"all parameters of the given modules are frozen, so that no method has weights, but "
            f"the features depend on {len(cut.below)} other tensors that require gradients (shapes "
            f"{', '.join(str(list(tensor.shape)) for tensor in cut.below[:3])}): add their module "
            f"to the Descent, or call requires_grad_(False) on them"
        )
    return WithHeads(JacobianRows([], [], []), cut, retain_graph=False)
