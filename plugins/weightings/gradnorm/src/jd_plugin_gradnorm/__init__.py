"""GradNorm: weights under which all objectives train at the same rate."""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import GramianWeighting, Remembering, losses_for
from jdframework.config import Config, Paper
from jdframework.protocols.names import Need

__all__ = ["GradNorm", "GradNormConfig"]

_SOLVED: Final = 1e-6
"""A loss below this share of its first value counts as that share."""


class GradNormConfig(Config):
    """Settings of gradient normalisation."""

    alpha: float = Field(
        1.5,
        ge=0.0,
        description="How strongly the objectives are pulled to a common training rate; 0 makes "
        "all weighted gradients equally long.",
    )
    lr: float = Field(
        0.025,
        gt=0.0,
        description="The share by which a weight moves in one step, at most.",
    )


class GradNorm(Remembering, GramianWeighting):
    """Learns weights under which the objectives that lag behind have the longer gradients.

    .. math::
        \\min_w \\sum_i \\bigl| w_i n_i - t_i \\bigr|, \\qquad
        t_i = \\Bigl(\\tfrac{1}{m} \\sum_j w_j n_j\\Bigr)
        \\frac{r_i^\\alpha}{\\tfrac{1}{m} \\sum_j r_j^\\alpha}, \\qquad
        r_i = \\frac{L_i / L_i(0)}{\\tfrac{1}{m} \\sum_j L_j / L_j(0)}

    with :math:`n_i = \\lVert g_i \\rVert` and the targets :math:`t_i` taken for constants (Chen et
    al. 2018, equation 2). The weights are one at first, each call answers with the present ones and
    then takes one step, and after each their sum is ``m``. There is nothing to add to a training
    loop: the :math:`n_i` are read off the Gramian, and :math:`L_i(0)` is the first loss seen.

    A step is one of the gradient's sign in :math:`\\log w`, as Adam's, but none goes past
    the minimum :math:`t_i / n_i`. So the weights stay positive, do not depend on the
    gradients' scale, and for losses and norms that stay as they are arrive exactly at
    :math:`w_i \\propto r_i^\\alpha / n_i`. A plain step is ``lr`` times :math:`n_i`, and oscillates
    about that point.

    Where others differ: in the paper the :math:`r_j^\\alpha` are not divided by their mean, so
    that all targets can lie above the weights, and the step is then undone by the sum ``m``. LibMTL
    learns the logits of a softmax, with the mean losses of the first epoch for
    :math:`L_i(0)` and equal weights until then. The paper takes the gradients in the last shared
    layer alone: for that, make the ``Descent`` for that layer's module.

    A loss of zero (below 1e-6 of its first value) counts as that share, and one whose first value
    was not positive has the rate of the mean. An objective with a zero gradient keeps its weight.

    :param alpha: :math:`\\alpha`; the paper tries 0.12 to 3, LibMTL takes 1.5.
    :param lr: The largest step in :math:`\\log w`.
    :raises ValueError: if it is called without the losses.
    :raises ConfigError: at the call, if there are more or fewer objectives than before.

    >>> import torch
    >>> gradnorm = GradNorm(lr=0.1)
    >>> gramian, losses = torch.diag(torch.tensor([1.0, 9.0])), torch.ones(2)
    >>> for _ in range(8):
    ...     weights = gradnorm(gramian, losses=losses)
    >>> weights
    tensor([1.5000, 0.5000])

    In a training loop::

        descent = jd.Descent(model, "gradnorm")
        for inputs, targets in loader:
            descent.backward(criterion(model(inputs), targets))
            optimizer.step()
            optimizer.zero_grad()
    """

    Config = GradNormConfig
    config: GradNormConfig
    needs: frozenset[Need] = frozenset({"gramian", "losses"})
    weights: Tensor
    first: Tensor
    """The first losses."""
    memory: ClassVar[tuple[str, ...]] = ("weights", "first")
    paper = Paper(
        title="GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask "
        "Networks",
        authors="Zhao Chen, Vijay Badrinarayanan, Chen-Yu Lee, Andrew Rabinovich",
        venue="ICML",
        year=2018,
        url="https://arxiv.org/abs/1711.02257",
    )

    def forward(
        self, gramian: Float[Tensor, "m m"], /, losses: Float[Tensor, " m"] | None = None
    ) -> Float[Tensor, " m"]:
        """The weights of this step; learns those of the next."""
        values = losses_for(self, losses, gramian)
        weights = self.recalled("weights", torch.ones_like(values))
        first = self.recalled("first", values)
        if not bool(gramian.isfinite().all() & values.isfinite().all()):
            return torch.full_like(weights, torch.nan)
        norms = gramian.diagonal().clamp(min=0.0).sqrt()
        self.weights = self._stepped(weights, norms, _rates(values, first) ** self.config.alpha)
        self.first = first.clone()
        return weights.clone()

    def _stepped(self, weights: Tensor, norms: Tensor, shares: Tensor) -> Float[Tensor, " m"]:
        """The weights after one step towards ``t / n``, with their sum ``m``."""
        present = norms > 0
        lengths = weights * norms
        targets = shares * (lengths.sum() / (shares * present).sum())
        step = (targets / lengths).log().clamp(-self.config.lr, self.config.lr)
        moved = weights * torch.where(present, step, 0.0).exp()
        return moved * (len(moved) / moved.sum())


def _rates(losses: Tensor, first: Tensor) -> Float[Tensor, " m"]:
    """``r``, up to a common factor that makes the largest one; all of them above zero."""
    rates = torch.where(first > 0, (losses / first).clamp(min=_SOLVED), torch.nan)
    rates = torch.where(rates.isnan(), rates.nanmean(), rates).nan_to_num(nan=1.0)
    return rates / rates.max()
