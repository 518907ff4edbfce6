"""The values of the losses, for weightings and aggregators that need them beside the gradients."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from jdframework.bases.method import BaseMethod


def losses_for(
    method: BaseMethod,
    losses: Tensor | None,
    like: Float[Tensor, "m _"],
    *,
    negative: bool = True,
) -> Float[Tensor, " m"]:
    """The losses that a method was called with, one per objective.

    :param method: Who needs them, for the message.
    :param losses: What it was given; None if it was called without.
    :param like: The Gramian or the Jacobian, whose dtype and device the result has.
    :param negative: Whether losses may be below zero.
    :raises ValueError: if there are none, not one per row of ``like``, or one is negative where
        that cannot be.
    """
    if losses is None:
        raise ValueError(
            f"{method.name} needs the losses beside the gradients: call it with losses=…, which "
            f"jd.Descent does by itself"
        )
    m = len(like)
    if losses.numel() != m:
        raise ValueError(
            f"{method.name} was given {losses.numel()} losses, but there are {m} objectives"
        )
    values = losses.detach().reshape(m).to(like)
    if not negative:
        below = values < 0
        if bool(below.any()):
            which = int(below.nonzero()[0])
            raise ValueError(
                f"{method.name} needs losses of at least zero, but loss {which} is "
                f"{float(values[which]):g}: shift the losses, or choose another method"
            )
    return values
