"""The steps that are compared, each on a model of its own; the method is the mean.

So only the engine is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torchjd.autogram
import torchjd.autojac
from torch import Tensor, nn
from torchjd.aggregation import Mean, MeanWeighting

import jdframework as jd

from jd_plugin_bench.steps import Step, plain


def autogram(model: nn.Module) -> Step:
    """Our hooked engine."""
    engine, weighting = jd.engine("autogram", model, batch_dim=0), jd.weighting("mean")
    return lambda losses: engine.backward(losses, weighting)


def torchjd_autogram(model: nn.Module) -> Step:
    """Torchjd's."""
    engine, weighting = torchjd.autogram.Engine(model, batch_dim=0), MeanWeighting()
    return lambda losses: losses.backward(weighting(engine.compute_gramian(losses)))


def torchjd_autojac(model: nn.Module) -> Step:
    """Torchjd's Jacobian."""
    parameters, aggregator = list(model.parameters()), Mean()

    def step(losses: Tensor) -> None:
        torchjd.autojac.backward(losses)
        torchjd.autojac.jac_to_grad(parameters, aggregator)

    return step


ENGINES: Final[Mapping[str, Callable[[nn.Module], Step]]] = {
    "ordinary": plain,
    "autogram": autogram,
    "torchjd autogram": torchjd_autogram,
}
"""By name."""
