"""Aggregation on the representation: the objectives meet at the features, not the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from jdframework.accumulation import add_to_grad
from jdframework.autograd_graph import gradients
from jdframework.bases import Engine
from jdframework.combination import combine
from jdframework.errors import UnsupportedModelError
from jdframework.multitask import (
    as_scalars,
    bypassing,
    check_features,
    cut_at,
    head_params,
    nested,
)
from jdframework.objectives import check_differentiable, objectives
from jdframework.outcome import Check, Outcome


class Representation(Engine):
    """Differentiates each objective down to the features, and the combination through the trunk.

    The method is applied to ``dLᵢ/dz`` for the features ``z`` instead of the parameters' Jacobian,
    so one backward pass of the trunk suffices, whatever the number of objectives (MGDA-UB, Sener &
    Koltun 2018, section 3.3). It is what ``jd.Descent(…, on="features")`` runs on.

    :param modules: The modules whose parameters the objectives share.
    :raises UnsupportedModelError: if a module is wrapped for distributed training.
    """

    name = "autograd"
    capabilities: ClassVar[frozenset[str]] = frozenset({"gramian", "jacobian"})

    def compute_gramian(self, losses: Tensor | Sequence[Tensor], /) -> Float[Tensor, "m m"]:
        """Not without the features.

        :raises UnsupportedModelError: always.
        """
        raise UnsupportedModelError(
            "the Gramian of the features is that of one batch: read it from the step, "
            "descent.backward(losses, features=…).gramian"
        )

    def update(
        self,
        losses: Tensor | Sequence[Tensor],
        method: Any,
        /,
        *,
        features: Sequence[Tensor] | None = None,
        retain_graph: bool = False,
        check: Check | None = None,
    ) -> Outcome:
        """See :meth:`jdframework.bases.Engine.update`; the Gramian is that of the features.

        :raises ValueError: if there are no features, or one has no graph.
        :raises UnsupportedModelError: if a loss depends on the trunk past the features, too, or a
            feature was computed from another.
        """
        found = _checked_features(features)
        given = objectives(losses)
        check_differentiable(given)
        scalars, shared = as_scalars(given.tensors), self.parameters
        if bypassing(scalars, found, shared):
            raise UnsupportedModelError(
                "a loss depends on a shared parameter past the features, too (tied weights), which "
                "on='features' would miss: use on='parameters'"
            )
        if nested(found):
            raise UnsupportedModelError(
                "a feature was computed from another, whose part in the losses on='features' would "
                "count twice: give only the last, or use on='parameters'"
            )
        heads = head_params(scalars, found, shared)
        cut = cut_at(found, scalars, heads, shared, retain_graph=retain_graph)
        combined = combine(method, cut.starts or (), losses=given.values().flatten(), check=check)
        starts = [d for d in combined.directions if d is not None]
        trunk = gradients(cut.outputs, shared, starts, retain_graph)
        add_to_grad([*shared, *cut.head_params], [*trunk, *cut.head_gradients])
        return combined.outcome


def _checked_features(features: Sequence[Tensor] | None) -> Sequence[Tensor]:
    if not features:
        raise ValueError(
            "on='features' needs the shared representation: backward(losses, features=…)"
        )
    check_features(features)
    return features
