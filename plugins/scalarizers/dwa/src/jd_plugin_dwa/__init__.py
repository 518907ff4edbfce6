"""DWA: a loss that fell more slowly over the last two epochs weighs more."""

from __future__ import annotations

from typing import Any, Final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import Scalarizer, initial_device
from jdframework.bases.weighting import working_dtype
from jdframework.config import Config, Paper

__all__ = ["DWA", "DWAConfig"]

_SHAPED: Final = ("total", "averages")


class DWAConfig(Config):
    """Settings of the dynamic weight average."""

    temperature: float = Field(
        2.0,
        gt=0,
        description="How alike the weights are; the larger, the more alike.",
    )


class DWA(Scalarizer):
    """Weighs each loss by how slowly it fell over the last two epochs.

    .. math:: \\sum_i a_i L_i, \\quad a = m \\operatorname{softmax}(r / T), \\quad
              r_i = \\bar L_i(t-1) / \\bar L_i(t-2)

    The dynamic weight average (Liu, Johns & Davison 2019), with the mean of each loss over an
    epoch. All weights are one until two epochs are over. Tell it when one is:
    ``descent.end_epoch()``.

    Each call counts as one batch of the epoch, unless a loss in it is not finite, which would
    otherwise spoil the weights of two epochs. A loss whose mean was zero has the ratio one. The
    history is part of ``state_dict()``, which torchjd leaves out (E12 of the ledger). Variants
    elsewhere take windows of 25 steps for epochs, or divide the weights by ``m``.

    :param temperature: ``T``, above zero. The paper takes 2.
    :raises ValueError: at the call, if the losses have another shape than those before.

    >>> import torch
    >>> dwa = DWA()
    >>> for losses in torch.tensor([[4.0, 4.0], [4.0, 1.0]]):
    ...     value = dwa(losses)
    ...     dwa.end_epoch()
    >>> dwa.weights(torch.ones(2))
    tensor([1.1853, 0.8147])
    """

    Config = DWAConfig
    config: DWAConfig
    total: Tensor
    averages: Tensor
    batches: Tensor
    paper = Paper(
        title="End-to-End Multi-Task Learning with Attention",
        authors="Shikun Liu, Edward Johns, Andrew J. Davison",
        venue="CVPR",
        year=2019,
        url="https://arxiv.org/abs/1803.10704",
    )

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        # Empty until the first call shows the losses' shape.
        self.register_buffer("total", torch.zeros(0, device=initial_device()))
        self.register_buffer("averages", torch.zeros(0, device=initial_device()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64, device=initial_device()))

    def forward(self, losses: Float[Tensor, "..."], /) -> Float[Tensor, ""]:
        """``Σ a L``, and counts the batch."""
        weights = self.weights(losses)
        self._count(losses.detach())
        return (weights * losses).sum()

    @torch.no_grad()
    def weights(self, losses: Float[Tensor, "*shape"], /) -> Float[Tensor, "*shape"]:
        """The weights of this epoch; they do not depend on the values of ``losses``.

        :param losses: Losses of the shape, the dtype and the device that the weights shall have.
        :raises ValueError: if the losses before had another shape.
        """
        self._check_shape(losses)
        if len(self.averages) < 2:
            return torch.ones_like(losses)
        older, newer = self.averages
        rates = torch.where(older == 0, 1, newer / older).flatten()
        shares = torch.softmax(rates / self.config.temperature, 0)
        return (losses.numel() * shares).reshape(losses.shape).to(losses)

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Takes the means of this epoch's losses; without a batch there was no epoch."""
        if not bool(self.batches):
            return
        average = (self.total / self.batches)[None]
        self.averages = torch.cat([self.averages.reshape(-1, *self.total.shape), average])[-2:]
        self.total = torch.zeros_like(self.total)
        self.batches = torch.zeros_like(self.batches)

    def reset(self) -> None:
        """Forgets every epoch, and the losses' shape."""
        self.total = self.total.new_zeros(0)
        self.averages = self.averages.new_zeros(0)
        self.batches = torch.zeros_like(self.batches)

    def _count(self, losses: Float[Tensor, "..."]) -> None:
        finite: Bool[Tensor, ""] = losses.isfinite().all()
        batch = torch.where(finite, losses, 0).to(working_dtype(losses.device))
        self.total = self.total.to(batch) + batch if self.total.numel() else batch
        self.batches = self.batches.to(losses.device) + finite

    def _check_shape(self, losses: Float[Tensor, "..."]) -> None:
        if self.total.numel() and losses.shape != self.total.shape:
            raise ValueError(
                f"dwa has seen losses of shape {list(self.total.shape)}, but was given losses of "
                f"shape {list(losses.shape)}: call reset() before they change"
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Makes room for the saved history, whose shape a new instance does not know."""
        for name in _SHAPED:
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor):
                setattr(self, name, torch.empty_like(saved, device=self.total.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)
