"""ExcessMTL: the objectives that are farthest from converged get more weight."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases import JacobianWeighting, Remembering
from jdframework.bases.weighting import working_dtype
from jdframework.config import Config, Paper

__all__ = ["ExcessMTL", "ExcessMTLConfig"]


class ExcessMTLConfig(Config):
    """Settings of ExcessMTL."""

    robust_step_size: float = Field(
        1.0,
        gt=0.0,
        description="Step size of the weights' exponentiated gradient; 1e-2 in LibMTL.",
    )
    n_warmup_steps: int = Field(
        0,
        ge=0,
        description="Calls with equal weights, over which the excess risks at the start are "
        "averaged; the first call always is one. The paper takes three epochs.",
    )
    min_weight: float = Field(
        1e-6,
        gt=0.0,
        lt=1.0,
        description="The smallest weight, so that an objective can come back.",
    )


class ExcessMTL(Remembering, JacobianWeighting):
    """Moves weight to the objectives whose excess risk has fallen least.

    .. math::
        a_i \\leftarrow \\frac{a_i e^{\\eta e_i / e_i^0}}{\\sum_j a_j e^{\\eta e_j / e_j^0}},
        \\qquad e_i = \\sum_k \\frac{J_{ik}^2}{\\sqrt{S_{ik}}}, \\qquad S \\leftarrow S + J^2

    with ``S`` the squares of all gradients so far and :math:`e^0` the excess risks of the first
    call, or their means over the warm-up (He et al. 2024, equations 6 to 9). It needs room for one
    more Jacobian.

    The first call gives equal weights and only sets :math:`e^0`, as in the authors' code. torchjd
    applies the exponential of the raw risks there, which are lengths in as many dimensions as there
    are parameters: with 1e4 of them the weights are one-hot for ever (E17 of the ledger).
    The weights are kept as logarithms and never fall below ``min_weight``, or one could not rise
    again. They sum to one; in LibMTL and the authors' code to ``m``.

    No constant is added to the squares, where others add 1e-7, so small gradients get the weights
    of large ones. An objective whose gradient was zero at the start has its first other risk for
    :math:`e_i^0`. All state is in ``state_dict()`` and loads into a fresh instance (E12).

    :param robust_step_size: :math:`\\eta`.
    :param n_warmup_steps: Calls with equal weights. 0 is the same as 1.
    :param min_weight: The smallest weight, before the weights are brought to the sum one.
    :raises ConfigError: at the call, if the Jacobian has another shape than those before.

    >>> import torch
    >>> excess = ExcessMTL()
    >>> excess(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    tensor([0.5000, 0.5000])
    >>> excess(torch.tensor([[1.0, 1.0], [0.1, 0.1]]))
    tensor([0.6676, 0.3324])

    In a training loop, with a warm-up of three epochs::

        descent = jd.Descent(model, "excess-mtl", n_warmup_steps=3 * len(loader))
        for inputs, targets in loader:
            descent.backward(criterion(model(inputs), targets))
            optimizer.step()
            optimizer.zero_grad()
    """

    Config = ExcessMTLConfig
    config: ExcessMTLConfig
    roots: Tensor
    """The roots of ``S`` ``[m, n]``, which neither overflow nor underflow where squares would."""
    logarithms: Tensor
    """Those of the weights ``[m]``."""
    first: Tensor
    """The excess risks at the start, their sum while there is a warm-up ``[m]``."""
    calls: Tensor
    memory: ClassVar[tuple[str, ...]] = ("roots", "logarithms", "first", "calls")
    paper = Paper(
        title="Robust Multi-Task Learning with Excess Risks",
        authors="Yifei He, Shiji Zhou, Guojun Zhang, Hyokun Yun, Yi Xu, Belinda Zeng, "
        "Trishul Chilimbi, Han Zhao",
        venue="ICML",
        year=2024,
        url="https://arxiv.org/abs/2402.02009",
    )

    def forward(self, jacobian: Float[Tensor, "m n"], /) -> Float[Tensor, " m"]:
        """The weights, after this call's step."""
        start = jacobian.new_zeros(()).expand_as(jacobian)
        roots = torch.hypot(self.recalled("roots", start), jacobian)
        risks = _excess(jacobian, roots)
        if not bool(risks.isfinite().all()):
            return torch.full_like(risks, torch.nan)
        calls = self.recalled("calls", risks.new_zeros(())) + 1
        logarithms = self.recalled("logarithms", torch.zeros_like(risks) - math.log(len(risks)))
        self.first = self._first(risks, calls)
        moved = self._moved(logarithms, risks)
        self.logarithms = torch.where(calls > self._warmup, moved, logarithms)
        self.roots, self.calls = roots, calls
        return self.logarithms.exp()

    @property
    def _warmup(self) -> int:
        return max(1, self.config.n_warmup_steps)

    def _first(self, risks: Tensor, calls: Tensor) -> Float[Tensor, " m"]:
        """The risks at the start, summed over the warm-up, with this call's."""
        first = self.recalled("first", torch.zeros_like(risks))
        late = torch.where(first > 0, first, self._warmup * risks)
        return torch.where(calls > self._warmup, late, first + risks)

    def _moved(self, logarithms: Tensor, risks: Tensor) -> Float[Tensor, " m"]:
        """The weights' logarithms after one step of the exponentiated gradient."""
        ratios = torch.where(self.first > 0, risks / self.first * self._warmup, 0.0)
        moved = logarithms + self.config.robust_step_size * ratios
        floored = moved.log_softmax(0).clamp(min=math.log(self.config.min_weight))
        return floored.log_softmax(0)


def _excess(jacobian: Float[Tensor, "m n"], roots: Float[Tensor, "m n"]) -> Float[Tensor, " m"]:
    """The excess risks ``e``."""
    shares = torch.where(roots > 0, jacobian / roots, 0.0)
    return (shares * jacobian).sum(1, dtype=working_dtype(jacobian.device))
