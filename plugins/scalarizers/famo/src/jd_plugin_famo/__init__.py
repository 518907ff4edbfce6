"""FAMO: decreases all losses at the same relative rate, from their values alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from jaxtyping import Float
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from jdframework.bases import Scalarizer, Shaped, ShapedConfig, initial_device
from jdframework.bases.weighting import at_least_float32
from jdframework.config import Nested, Paper, PerLoss, shape_of
from jdframework.errors import ConfigError

__all__ = ["FAMO", "FAMOConfig"]

_EPSILON: Final = 1e-8  # the authors', in the logarithm and in Adam alike
_BETAS: Final = (0.9, 0.999)


class FAMOConfig(ShapedConfig):
    """Settings of fast adaptive multitask optimisation."""

    min_losses: PerLoss | None = Field(
        None,
        description="Lower bound of each loss, as a list or in the losses' shape; None is zero.",
    )
    lr: float = Field(0.025, ge=0, description="Learning rate of the logits, by Adam.")
    weight_decay: float = Field(
        1e-3, ge=0, description="Decay of the logits towards equal weights."
    )

    @field_validator("min_losses")
    @classmethod
    def _one_for_each_loss(cls, min_losses: Nested | None, others: ValidationInfo) -> Nested | None:
        shape = others.data.get("shape")
        if min_losses is None or shape is None:
            return min_losses
        if not _fits(min_losses, shape):
            m = math.prod(shape)
            raise ValueError(
                f"by shape there are {m} losses, so it must be {m} numbers, or have the shape "
                f"{list(shape)}"
            )
        return min_losses


def _fits(bounds: Nested, shape: tuple[int, ...]) -> bool:
    """Whether they are of the losses' shape, or one list of as many."""
    return shape_of(bounds) in (shape, (math.prod(shape),))


class FAMO(Shaped, Scalarizer):
    """Decreases all losses at the same relative rate, from their values alone.

    .. math:: c \\sum_i z_i \\log(L_i - b_i + \\epsilon), \\quad z = \\operatorname{softmax}(w),
              \\quad 1 / c = \\sum_i z_i / (L_i - b_i + \\epsilon)

    Fast adaptive multitask optimisation (Liu et al. 2023). ``z`` and ``c`` count as constants, so
    that the weights of the losses sum to one. After the optimizer's step, tell it the losses of
    the same batch: ``descent.after_update(losses)``. A loss that fell by a larger factor than the
    others then loses weight: with :math:`\\delta` the decrease of each logarithm, one step of Adam
    on ``w`` along :math:`z \\odot (\\delta - z \\cdot \\delta)`.

    ``w`` and Adam's moments are part of ``state_dict()``, where torchjd leaves the moments out
    (E12 of the ledger). They are kept in float64, as Adam takes whole steps along gradients above
    1e-8, and the rounding errors of float32 are larger. The authors also clip the model's gradient
    to the norm one, in their benchmark before the backward pass (E21); that is the caller's to do.
    The weight decay is that of the paper's Algorithm 2; the authors' files have 1e-5 and 1e-2.

    :param shape: The losses' shape, as an int or a tuple of ints; that of the first losses when
        None.
    :param min_losses: ``b``, in the order of ``losses.flatten()`` or in the losses' shape.
    :param lr: Adam's learning rate. The paper takes 0.025.
    :param weight_decay: Adam's weight decay.
    :raises ValueError: at the call, if the losses have another shape, or one is below its bound.
    :raises ConfigError: at the first call, if there are more or fewer losses than bounds.

    >>> import torch
    >>> famo = FAMO()
    >>> famo(torch.tensor([1.0, 4.0])).item() > 0
    True
    >>> famo.after_update(torch.tensor([0.5, 4.0]))
    >>> famo.logits[0] < famo.logits[1]
    tensor(True)
    """

    Config = FAMOConfig
    config: FAMOConfig
    per_loss: ClassVar[tuple[str, ...]] = (
        "logits",
        "first_moment",
        "second_moment",
        "before",
    )
    logits: Tensor
    before: Tensor
    first_moment: Tensor
    second_moment: Tensor
    updates: Tensor
    claims: ClassVar[Mapping[str, Any]] = {"negative_losses": False, "stops_gradient": True}
    paper = Paper(
        title="FAMO: Fast Adaptive Multitask Optimization",
        authors="Bo Liu, Yihao Feng, Peter Stone, Qiang Liu",
        venue="NeurIPS",
        year=2023,
        url="https://arxiv.org/abs/2306.03792",
    )

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        for name in self.per_loss:
            self.register_buffer(name, self.initial(torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device=initial_device()))
        self.register_constant("min_losses", self.config.min_losses)
        self.reset()

    def take_shape(self, shape: Sequence[int], device: torch.device) -> None:
        """Likewise, with as many bounds as losses.

        :param shape: The losses'.
        :param device: The losses'.
        :raises ConfigError: if there are more or fewer, or they have another shape.
        """
        is_first = not self.logits.numel()
        bounds = self.config.min_losses
        if is_first and bounds is not None and not _fits(bounds, tuple(shape)):
            raise ConfigError(
                f"{self.name}: min_losses has the shape {list(shape_of(bounds))}, but the losses "
                f"have the shape {list(shape)}"
            )
        super().take_shape(shape, device)
        if is_first:
            self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Makes all weights equal again, and forgets the moments and the last losses.

        The losses' shape stays.
        """
        for state in (self.logits, self.first_moment, self.second_moment, self.updates):
            state.zero_()
        self.before.fill_(torch.nan)

    def forward(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """``c Σ z log(L - b + ε)``, and remembers the losses."""
        gaps = self._gaps(losses)
        self.before.copy_(self._logarithms(gaps))
        shares, gaps = self._shares().to(gaps.dtype), gaps + _EPSILON
        return (shares * gaps.log()).sum() / (shares / gaps.detach()).sum()

    @torch.no_grad()
    def after_update(self, losses: Float[Tensor, "..."], /) -> None:
        """Moves weight to the losses that fell least, by one step of Adam.

        Without a call since the last update (the step was skipped), or with losses that are not
        finite, there is nothing to learn, and the weights stay as they are.

        :param losses: Those of the same batch, under the new parameters.
        :raises ValueError: if they have another shape, or one is below its bound.
        """
        after = self._logarithms(self._gaps(losses))  # which takes the shape at a first call
        decrease = self.before - after
        self.before.fill_(torch.nan)
        if bool(decrease.isfinite().all()):
            shares = self._shares()
            self._step(shares * (decrease - (shares * decrease).sum()))

    def _shares(self) -> Float[Tensor, "*shape"]:
        return torch.softmax(self.logits.flatten(), 0).reshape(self.logits.shape)

    def _step(self, gradient: Float[Tensor, "*shape"]) -> None:
        """One step of Adam on the logits."""
        self.updates += 1
        gradient = gradient + self.config.weight_decay * self.logits
        self.first_moment.lerp_(gradient, 1 - _BETAS[0])
        self.second_moment.lerp_(gradient.square(), 1 - _BETAS[1])
        first, second = (
            moment / (1 - torch.pow(beta, self.updates.to(moment)))
            for moment, beta in zip((self.first_moment, self.second_moment), _BETAS, strict=True)
        )
        self.logits -= self.config.lr * first / (second.sqrt() + _EPSILON)

    def _logarithms(self, gaps: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (gaps.detach().to(self.before) + _EPSILON).log()

    def _gaps(self, losses: Float[Tensor, "..."]) -> Float[Tensor, "*shape"]:
        """``L - b``, in float32 at least.

        :raises ValueError: if the shape is another, or a gap is negative.
        """
        self.take_shape(losses.shape, losses.device)
        losses = losses.to(at_least_float32(losses.dtype))
        gaps = losses
        if self.config.min_losses is not None:
            bounds = self.constant("min_losses", losses.numel(), losses, losses.shape)
            gaps = losses - bounds.reshape(losses.shape)
        below = ((gaps < 0) & gaps.isfinite()).flatten()
        if bool(below.any()):
            which = int(below.nonzero()[0])
            raise ValueError(
                f"famo: loss {which} is {losses.flatten()[which].item():g}, below its lower bound "
                f"{(losses - gaps).flatten()[which].item():g}: set min_losses lower"
            )
        return gaps
