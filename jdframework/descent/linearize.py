"""The linearization of a step, by the first engine that serves it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from jaxtyping import Float
from torch import Tensor, nn

from jdframework.autograd.shared_modules import trained
from jdframework.descent.backward_call import BackwardCall
from jdframework.descent.engine_choice import Choice
from jdframework.descent.refusals import check_reaches
from jdframework.errors import UnsupportedModelError
from jdframework.linearization import Linearization
from jdframework.linearization.combination import linearized
from jdframework.linearization.cross_gramian import BatchProducts, WithCrossGramian, cross_gramian
from jdframework.linearization.features import Cut, cut_losses
from jdframework.linearization.heads import on_features
from jdframework.protocols import Engine

_CONSUMED: Final = "second time"
"""What torch says of a graph that an earlier pass has freed."""

Linearized = tuple[Linearization, Sequence[Float[Tensor, "m m"] | None]]
"""A linearization, and its Gramians."""


def linearize(
    call: BackwardCall, method: Any, choice: Choice, modules: Sequence[nn.Module]
) -> Linearized:
    """The linearization of a step, and its Gramians, by the first engine that does not refuse.

    :param call: The losses of the step.
    :param method: A weighting or an aggregator.
    :param choice: Which engine is to serve; the next one does where one refuses.
    :param modules: Those whose parameters the objectives share.
    :raises UnsupportedModelError: if no engine can serve, with each one's reason.
    """
    given, *others = map(call.scale.scaled_losses, call.batches)
    shared = trained(modules) if others or call.features is not None else []
    if not shared:
        others = []  # where all is frozen, there is nothing that batches could differ in
    if others:
        check_reaches((given, *others), shared)

    @cache
    def at_features() -> Cut | None:
        """The heads are differentiated once, and only after all else that goes through them."""
        if call.features is None:
            return None
        return cut_losses(given.tensors, call.features, shared, call.retain_graph)

    def attempt(engine: Engine | None) -> Linearized:
        products = cross_gramian(engine, *(given, *others)[-2:]) if engine and others else None
        lin: Linearization
        cut = at_features()
        if engine is not None:
            lin = linearized(engine, method, given.tensors, cut, call.retain_graph)
        else:
            assert cut is not None
            lin = on_features(cut, shared, call.retain_graph)
        lin = call.scale.unscaled_linearization(lin)
        if products is not None:
            products = BatchProducts(*map(call.scale.unscaled_products, products))
            lin = WithCrossGramian(lin, products, is_of_losses=len(others) == 1)
        try:
            return lin, lin.gramians()
        except BaseException:
            lin.close()
            raise

    refusal: UnsupportedModelError | None = None
    while True:
        engine = choice.serving(call.given, call.features)
        try:
            found = attempt(engine)
        except UnsupportedModelError as error:
            refusal = error
            choice.refused(error, call.given, call.features)
        except RuntimeError as error:
            if refusal is None or _CONSUMED not in str(error):
                raise
            raise refusal from error  # an engine refused late, and there is no graph for the next
        else:
            choice.served()
            return found
