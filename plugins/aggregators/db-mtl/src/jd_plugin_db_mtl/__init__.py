"""DB-MTL: gradients of the losses' logarithms, averaged over the steps and made equally long."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import Aggregator, Tracking, losses_for
from jdframework.config import Config, Paper
from jdframework.linalg import lengths
from jdframework.protocols.names import Need

__all__ = ["DBMTL", "DBMTLConfig"]


class DBMTLConfig(Config):
    """Settings of dual-balancing multi-task learning."""

    beta: float = Field(
        0.9, ge=0.0, lt=1.0, description="Decay of the running mean of the gradients."
    )
    beta_sigma: float = Field(
        0.0,
        ge=0.0,
        description="In step k, beta is divided by k to this power; the paper tries 0 and 0.5.",
    )
    eps: float = Field(
        1e-8,
        gt=0.0,
        description="Added to each loss before its logarithm is taken.",
    )
    bias_correction: bool = Field(
        False,
        description="Whether the running mean starts at the first gradient; if not, it starts at "
        "zero, and the first update is 1 - beta times as long.",
    )


class DBMTL(Tracking, Aggregator):
    """Balances the losses by their logarithms, and the gradients by one common length.

    .. math::
        y_i \\leftarrow \\beta_k y_i + (1 - \\beta_k) \\nabla \\log(L_i + \\epsilon), \\qquad
        d = \\sum_i \\frac{\\max_j \\lVert y_j \\rVert}{\\lVert y_i \\rVert} y_i, \\qquad
        \\beta_k = \\beta / k^\\sigma

    (Lin et al. 2023, Algorithm 1.) The logarithms' gradients are those of the losses over the
    losses, so that is what the rows of the Jacobian are divided by. It is an aggregator, as the
    update combines the ``y``; it needs room for one more Jacobian.

    A gradient that is exactly zero adds nothing; one that is nearly so is made as long as the
    longest, which is the method. (In float32, a length below 1e-22 loses its digits.) LibMTL adds
    1e-8 to each length, so that small gradients are not treated like large ones. There the running
    mean starts at zero and the first update is
    a tenth of the gradients; ``bias_correction=True`` mends that. Negative losses are refused
    instead of giving NaN. In LibMTL the heads get the gradients of the logarithms too;
    here, as with every method, their own plain ones.

    :param beta: :math:`\\beta`; 0 remembers nothing.
    :param beta_sigma: :math:`\\sigma`, how ``beta`` falls.
    :param eps: :math:`\\epsilon`.
    :param bias_correction: Whether the mean is divided by the sum of its weights.
    :raises ValueError: if it is called without the losses, or one is negative.
    :raises ConfigError: at the call, if the Jacobian has another shape than those before.

    >>> import torch
    >>> dbmtl = DBMTL(bias_correction=True)
    >>> dbmtl(torch.tensor([[6.0, 0.0], [0.0, 4.0]]), losses=torch.tensor([2.0, 4.0]))
    tensor([3., 3.])

    In a training loop, where heads past the shared features get their own gradient::

        descent = jd.Descent(trunk, "db-mtl")
        for inputs, targets in loader:
            features = trunk(inputs)
            losses = criterion(heads(features), targets)
            descent.backward(losses, features=features)
            optimizer.step()
            optimizer.zero_grad()
    """

    Config = DBMTLConfig
    config: DBMTLConfig
    needs: frozenset[Need] = frozenset({"jacobian", "losses"})
    weight: Tensor
    """What the running mean of ones would be."""
    memory: ClassVar[tuple[str, ...]] = (*Tracking.memory, "weight")
    paper = Paper(
        title="Dual-Balancing for Multi-Task Learning",
        authors="Baijiong Lin, Weisen Jiang, Feiyang Ye, Yu Zhang, Pengguang Chen, Ying-Cong Chen, "
        "Shu Liu, James T. Kwok",
        venue="arXiv",
        year=2023,
        url="https://arxiv.org/abs/2308.12029",
    )

    def forward(
        self, jacobian: Float[Tensor, "m n"], /, losses: Float[Tensor, " m"] | None = None
    ) -> Float[Tensor, " n"]:
        """The sum of the running means, each at the length of the longest."""
        values = losses_for(self, losses, jacobian, negative=False)
        rows = jacobian / (values + self.config.eps)[:, None]
        share = 1 - self.falling(self.config.beta, self.config.beta_sigma, rows.device)
        tracked = self.followed(rows, share)
        norms = lengths(tracked)
        finite = norms.isfinite().all()
        before = self.recalled("weight", 0 * share)
        weight = torch.lerp(before, torch.ones_like(share), share)
        self.weight = torch.where(finite, weight, before)
        self.keep(rows, tracked, finite)
        direction: Tensor = torch.where(norms > 0, norms.max() / norms, 0.0) @ tracked
        direction = torch.where(finite, direction, torch.nan)
        return direction / weight.to(rows) if self.config.bias_correction else direction
