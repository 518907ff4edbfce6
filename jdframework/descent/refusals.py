"""What a Descent, and a step on features, refuse before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from torch import Tensor, nn

from jdframework.autograd.graph import leaves_of, without
from jdframework.bases.engine import unserved
from jdframework.descent.engine_choice import is_auto
from jdframework.errors import ConfigError, UnsupportedModelError
from jdframework.linearization.combination import treats_groups
from jdframework.linearization.features import Features, partition
from jdframework.linearization.objectives import Objectives
from jdframework.registry import Spec


def check_choice(argument: str, given: object, choices: Any) -> None:
    """Refuses an argument that is none of a few values.

    :param argument: What it is called.
    :param given: What was given.
    :param choices: The ``Literal`` of those values.
    :raises ConfigError: if it is none of them.
    """
    if given not in get_args(choices):
        allowed = ", ".join(map(repr, get_args(choices)))
        raise ConfigError(f"{argument} = {given!r} was given, but it is one of {allowed}")


def check_wrapped(modules: Sequence[nn.Module]) -> None:
    """Refuses modules that no pass through the trunk can serve.

    :param modules: Those whose parameters the objectives share.
    :raises UnsupportedModelError: with the reason and the remedy.
    """
    refusal = unserved(modules)
    if refusal is not None:
        raise UnsupportedModelError(refusal)


def check_on_features(method: Any, engine: Spec) -> None:
    """Refuses what aggregation on the representation cannot serve.

    :param method: A weighting, an aggregator or a scalarizer.
    :param engine: A spec, or ``"auto"``.
    :raises ConfigError: with the reason.
    """
    reason, name = None, method.name
    if method.kind == "scalarizer":
        reason = f"{name} is a scalarizer, which looks at no gradients"
    elif "cross-gramian" in method.needs:
        reason = f"{name} compares batches, whose features have nothing in common"
    elif treats_groups(method):
        reason = f"{name} divides parameters into groups"
    elif not is_auto(engine):
        reason = "no engine is needed where no Jacobian of parameters is: leave engine out"
    if reason is not None:
        raise ConfigError(f"on='features' was given, but {reason}")


def check_representation(
    given: Objectives, features: Features | None, shared: Sequence[Tensor]
) -> None:
    """Refuses features below which one backward pass does not give the trunk's gradients.

    :param given: The losses.
    :param features: The shared representation.
    :param shared: The trunk's parameters.
    :raises ValueError: if there are no features, or the graph cannot be cut at them.
    :raises UnsupportedModelError: if a loss, or a feature, bypasses a feature.
    """
    if features is None:
        raise ValueError(
            "on='features' needs the shared representation: backward(losses, features=…)"
        )
    parts = partition(given.tensors, features, shared)
    ours = {id(parameter) for parameter in shared}
    if any(id(tensor) in ours for tensor in parts.tied):
        raise UnsupportedModelError(
            "a loss depends on a shared parameter past the features, too (tied weights), which "
            "on='features' would miss: use on='parameters'"
        )
    if parts.tied:
        raise UnsupportedModelError(
            f"a tensor of shape {list(parts.tied[0].shape)} outside of the given modules enters "
            f"both the features and, past them, a loss, which on='features' would miss: use "
            f"on='parameters', or, if it is data, call requires_grad_(False) on it"
        )
    if parts.nested:
        raise UnsupportedModelError(
            "a feature was computed from another, whose part in the losses on='features' would "
            "count twice: give only the last, or use on='parameters'"
        )


def check_reaches(batches: Sequence[Objectives], parameters: Sequence[Tensor]) -> None:
    """Refuses a batch whose losses depend on none of the shared parameters.

    :param batches: The losses, and those of independent batches.
    :param parameters: The shared ones.
    :raises ValueError: if there is such a batch.
    """
    for batch in batches:
        if len(without(leaves := leaves_of(batch.tensors), parameters)) == len(leaves):
            raise ValueError(
                "the losses, or those of an independent batch, depend on no parameter of the given "
                "modules that requires gradients: are these the modules that computed them?"
            )
