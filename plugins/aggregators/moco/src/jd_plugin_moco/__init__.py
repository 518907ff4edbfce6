"""MoCo: tracks the gradients over the steps, and takes their min-norm combination."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import Aggregator, Tracking, losses_for
from jdframework.config import Config, Paper
from jdframework.linalg import gramian, lengths, simplex_projection

__all__ = ["MoCo", "MoCoConfig"]


class MoCoConfig(Config):
    """Settings of multi-objective gradient correction."""

    beta: float = Field(
        0.1, gt=0.0, le=1.0, description="Step size of the tracked gradients; 0.5 in LibMTL."
    )
    gamma: float = Field(0.1, ge=0.0, description="Step size of the weights.")
    rho: float = Field(
        0.1,
        ge=0.0,
        description="Pulls the weights towards equal ones; 0 in LibMTL.",
    )
    beta_sigma: float = Field(
        0.0,
        ge=0.0,
        description="In step k, beta is divided by k to this power; 0.5 in LibMTL.",
    )
    gamma_sigma: float = Field(0.0, ge=0.0, description="Likewise gamma; 0.5 in LibMTL.")
    normalize: Literal["loss"] | None = Field(
        None,
        description="'loss' gives each gradient the length of its loss, as LibMTL does.",
    )


class MoCo(Tracking, Aggregator):
    """Descends along the min-norm combination of gradients that are tracked over the steps.

    .. math::
        y \\leftarrow y - \\beta_k (y - J), \\qquad
        \\lambda \\leftarrow \\Pi_\\Delta\\bigl(\\lambda
        - \\gamma_k (y y^\\top + \\rho I) \\lambda\\bigr), \\qquad d = y^\\top \\lambda

    with :math:`\\beta_k = \\beta / k^{\\sigma_\\beta}` and likewise :math:`\\gamma_k` (Fernando et
    al. 2023, Algorithm 1). A mini-batch's own min-norm combination is biased; that of the
    tracked gradients is not, in the limit. It starts at :math:`y = 0`, so that the first update is
    ``beta`` times as long as later ones, and at equal weights.

    It is an aggregator, as the update combines the ``y``, not the rows of the Jacobian. It needs
    room for one more Jacobian. The projection is the one on the simplex, exact; LibMTL has a
    softmax in its place, under which the weights hardly move from equal ones (E22 of the ledger).
    ``beta=0.5, beta_sigma=0.5, gamma_sigma=0.5, rho=0, normalize="loss"`` are LibMTL's other
    settings. As in the paper, ``gamma`` has the inverse unit of a squared gradient: the weights of
    large gradients move faster. All state is in ``state_dict()``, and loads into a fresh instance.

    :param beta: Step size of ``y``.
    :param gamma: Step size of :math:`\\lambda`, which is on the simplex.
    :param rho: Regularisation of :math:`\\lambda`.
    :param beta_sigma: How ``beta`` falls.
    :param gamma_sigma: How ``gamma`` falls.
    :param normalize: ``"loss"`` gives each gradient the length of its loss.
    :raises ValueError: with ``normalize="loss"``, if it is called without the losses.
    :raises ConfigError: at the call, if the Jacobian has another shape than those before.

    >>> import torch
    >>> moco = MoCo(beta=0.5)
    >>> for _ in range(200):
    ...     direction = moco(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    >>> moco.weights
    tensor([0.2115, 0.7885], dtype=torch.float64)

    In a training loop, where heads past the shared features get their own gradient::

        descent = jd.Descent(trunk, "moco")
        for inputs, targets in loader:
            features = trunk(inputs)
            losses = criterion(heads(features), targets)
            descent.backward(losses, features=features)
            optimizer.step()
            optimizer.zero_grad()
    """

    Config = MoCoConfig
    config: MoCoConfig
    weights: Tensor
    """``λ`` ``[m]``."""
    memory: ClassVar[tuple[str, ...]] = (*Tracking.memory, "weights")
    claims: ClassVar[Mapping[str, Any]] = {"scale": None}
    paper = Paper(
        title="Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent "
        "Approach",
        authors="Heshan Fernando, Han Shen, Miao Liu, Subhajit Chaudhury, Keerthiram Murugesan, "
        "Tianyi Chen",
        venue="ICLR",
        year=2023,
        url="https://arxiv.org/abs/2210.12624",
    )

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        if self.config.normalize is not None:
            self.needs = frozenset({"jacobian", "losses"})

    def forward(
        self, jacobian: Float[Tensor, "m n"], /, losses: Float[Tensor, " m"] | None = None
    ) -> Float[Tensor, " n"]:
        """``yᵀλ``, after this call's step of both."""
        rows = self._normalised(jacobian, losses)
        config, device = self.config, rows.device
        gamma = self.falling(config.gamma, config.gamma_sigma, device)
        tracked = self.followed(rows, self.falling(config.beta, config.beta_sigma, device))
        products = gramian([tracked]).to(gamma)
        finite = products.trace().isfinite()
        if not bool(finite):
            return torch.full_like(jacobian[0], torch.nan)
        self.weights = self._moved(products, gamma)
        self.keep(rows, tracked, finite)
        return self.weights.to(rows) @ tracked

    def _normalised(self, jacobian: Tensor, losses: Tensor | None) -> Float[Tensor, "m n"]:
        """The gradients, at the lengths of their losses if the settings say so."""
        if self.config.normalize is None:
            return jacobian
        values, norms = losses_for(self, losses, jacobian), lengths(jacobian)
        return torch.where(norms == 0, 0.0, values / norms)[:, None] * jacobian

    def _moved(self, products: Float[Tensor, "m m"], gamma: Tensor) -> Float[Tensor, " m"]:
        """The weights after one projected step."""
        m = len(products)
        weights = self.recalled("weights", products.new_full((m,), 1 / m))
        slope = products @ weights + self.config.rho * weights
        return simplex_projection(weights - gamma * slope)
