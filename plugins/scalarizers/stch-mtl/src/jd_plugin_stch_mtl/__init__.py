"""STCH for multi-task learning: a smooth maximum of the losses, relative to their size at first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import Remembering, Scalarizer
from jdframework.bases.weighting import working_dtype
from jdframework.config import Config, Paper

__all__ = ["STCHMTL", "STCHMTLConfig"]


class STCHMTLConfig(Config):
    """Settings of the smooth Tchebycheff scalarization for multi-task learning."""

    mu: float = Field(
        1.0,
        gt=0,
        description="How smooth the maximum is; the smaller, the closer to the maximum itself.",
    )
    warmup_epochs: int = Field(
        4,
        ge=1,
        description="Epochs that minimise the sum of the logarithms; the mean losses of the last "
        "one are what the losses are then divided by.",
    )


class STCHMTL(Remembering, Scalarizer):
    """Takes a smooth maximum of the logarithms of the losses over their means in an early epoch.

    .. math::
        m \\mu \\log \\sum_i \\exp\\Bigl(\\tfrac{1}{\\mu} \\log \\frac{L_i}{\\bar L_i}\\Bigr)
        \\quad \\text{after the warm-up,} \\qquad \\sum_i \\log L_i \\quad \\text{before}

    The variant of ``stch`` for multi-task learning, of the official code and of LibMTL (Lin et al.
    2024): :math:`\\bar L`, the nadir, is the mean of each loss over the last epoch of the warm-up.
    Tell it when an epoch is over: ``descent.end_epoch()``. Without that the warm-up never ends.

    ``warmup_epochs`` counts the warm-up with the epoch that gives the nadir, which LibMTL's
    ``STCH_warmup_epoch`` leaves out: 4 there is 5 here. The greatest term is taken out
    before the division by ``mu``, so that nothing overflows. The logarithm is of the loss plus the
    smallest normal number, so that a loss of zero has a finite derivative. A batch whose losses are
    not finite does not count for the nadir, nor an epoch without a batch.

    :param mu: ``mu``, above zero.
    :param warmup_epochs: How many epochs the warm-up has, at least one.
    :raises ValueError: at the call, if a loss is negative.
    :raises ConfigError: at the call, if the losses have another shape than those before.

    >>> import torch
    >>> stch = STCHMTL(warmup_epochs=1)
    >>> stch(torch.tensor([1.0, 8.0])).item()
    2.0794...
    >>> stch.end_epoch()
    >>> stch(torch.tensor([0.5, 4.0])).item()  # both halved: 2 log (1/2 + 1/2)
    0.0

    In a training loop::

        descent = jd.Descent(model, "stch-mtl")
        for epoch in range(6):
            for inputs, targets in loader:
                descent.backward(criterion(model(inputs), targets))
                optimizer.step()
                optimizer.zero_grad()
            descent.end_epoch()
    """

    Config = STCHMTLConfig
    config: STCHMTLConfig
    total: Tensor
    """The sum of this epoch's losses, while there is a warm-up."""
    batches: Tensor
    nadir: Tensor
    """The losses' means in the last epoch of the warm-up; empty until that is over."""
    epochs: Tensor
    memory: ClassVar[tuple[str, ...]] = ("total", "batches", "nadir", "epochs")
    claims: ClassVar[Mapping[str, Any]] = {"negative_losses": False}
    paper = Paper(
        title="Smooth Tchebycheff Scalarization for Multi-Objective Optimization",
        authors="Xi Lin, Xiaoyuan Zhang, Zhiyuan Yang, Fei Liu, Zhenkun Wang, Qingfu Zhang",
        venue="ICML",
        year=2024,
        url="https://arxiv.org/abs/2402.19078",
    )

    def forward(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """The sum of the logarithms in the warm-up, their smooth maximum after it."""
        lowest = losses.detach().min()
        if bool((lowest < 0) & lowest.isfinite()):
            raise ValueError(
                f"stch-mtl needs losses of at least zero, but one is {lowest.item():g}: "
                f"shift the losses, or choose another method"
            )
        if not self.nadir.numel():
            self._count(losses.detach())
            return _logarithms(losses).sum()
        nadir = self.recalled("nadir", torch.ones_like(losses))
        return self._smooth_maximum(_logarithms(losses) - _logarithms(nadir))

    def _smooth_maximum(self, logarithms: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        mu, m = self.config.mu, logarithms.numel()
        greatest = logarithms.detach().max()
        rest = torch.logsumexp((logarithms.flatten() - greatest) / mu, 0)
        return m * (greatest + mu * rest)

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Counts the epoch; without a batch there was none."""
        if self.nadir.numel() or not self.total.numel() or not bool(self.batches):
            return
        self.epochs = self.recalled("epochs", torch.zeros_like(self.batches)) + 1
        if int(self.epochs) == self.config.warmup_epochs:
            self.nadir = self.total / self.batches
        self.total = torch.zeros_like(self.total)
        self.batches = torch.zeros_like(self.batches)

    def _count(self, losses: Float[Tensor, "..."]) -> None:
        finite = losses.isfinite().all()
        batch = torch.where(finite, losses, 0).to(working_dtype(losses.device))
        self.total = self.recalled("total", torch.zeros_like(batch)) + batch
        self.batches = (
            self.recalled("batches", torch.zeros_like(finite, dtype=torch.int64)) + finite
        )


def _logarithms(losses: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return (losses + torch.finfo(losses.dtype).tiny).log()
