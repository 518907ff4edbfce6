"""GradDrop: per coordinate, only the gradients of one sign are kept, chosen at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, Literal

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor

from jdframework.bases import Aggregator, Randomised, SeededConfig
from jdframework.config import Nested, Paper, PerLoss, flattened

__all__ = ["GradDrop", "GradDropConfig"]


def _identity(purity: Tensor) -> Tensor:
    return purity


def _majority(purity: Tensor) -> Tensor:
    equal = (purity - 0.5).abs() <= 64 * torch.finfo(purity.dtype).eps
    return torch.where(equal, 0.5, (purity > 0.5).to(purity.dtype))


_FUNCTIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "identity": _identity,
    "majority": _majority,
}


class GradDropConfig(SeededConfig):
    """Settings of GradDrop."""

    f: Literal["identity", "majority"] = Field(
        "identity",
        description="Turns the purity into the probability of keeping the positive values: "
        "'identity', or 'majority', which keeps the sign with the larger sum, and draws only "
        "where both are equal.",
    )
    leak: PerLoss | None = Field(
        None,
        description="One number from 0 to 1 per objective: the share of its gradient that is "
        "never dropped; 0 each when None.",
    )

    @field_validator("leak")
    @classmethod
    def _shares(cls, leak: Nested | None) -> Nested | None:
        if leak is not None and not all(0.0 <= share <= 1.0 for share in flattened(leak)):
            raise ValueError("every value must be from 0 to 1")
        return leak


class GradDrop(Randomised, Aggregator):
    """Keeps, per coordinate, either the positive or the negative values, and sums them.

    .. math::
        d_k = \\sum_i \\big(\\ell_i + (1 - \\ell_i)\\, M_{ik}\\big) J_{ik}, \\qquad
        M_{ik} = [J_{ik} > 0] \\text{ if } f(P_k) > U_k \\text{, else } [J_{ik} < 0], \\qquad
        P_k = \\frac12 \\Big(1 + \\frac{\\sum_i J_{ik}}{\\sum_i \\lvert J_{ik} \\rvert}\\Big)

    with :math:`U_k` uniform in :math:`[0, 1)`, drawn anew for each coordinate and step (Chen et
    al. 2020, Algorithm 1, lines 10 to 15, on the parameters' gradients). With ``f="identity"`` and
    no leak the expected update is the plain sum of the gradients.

    The update is not rescaled; lingvo by default multiplies it by the new norm over the old one,
    the inverse of what keeps the norm. SamsungLabs' code draws one sign for all coordinates and
    leaks what should not; neither is done here. LibMTL applies the method to the shared features
    instead of the parameters.

    :param f: ``"identity"`` or ``"majority"``.
    :param leak: The shares :math:`\\ell`, one per objective; 0 each when None.
    :param seed: Seed of the method's own generator, whose state is saved with ``state_dict()``.
        None draws from torch's global generator.
    :raises ConfigError: at the call, if ``leak`` has not one number per objective.

    >>> import torch
    >>> GradDrop(f="majority")(torch.tensor([[1.0, -2.0], [-3.0, -1.0], [1.0, 2.0]]))
    tensor([-3., -3.])
    """

    Config: ClassVar[type[GradDropConfig]] = GradDropConfig
    config: GradDropConfig
    column_wise: ClassVar[bool] = True
    paper = Paper(
        title="Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout",
        authors="Zhao Chen, Jiquan Ngiam, Yanping Huang, Thang Luong, Henrik Kretzschmar, "
        "Yuning Chai, Dragomir Anguelov",
        venue="NeurIPS",
        year=2020,
        url="https://arxiv.org/abs/2010.06808",
    )

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_constant("leak", self.config.leak)

    def forward(self, jacobian: Float[Tensor, "m n"], /) -> Float[Tensor, " n"]:
        """The sum of the values whose sign was kept, and of what leaks."""
        positive, negative = jacobian.clamp(min=0.0), jacobian.clamp(max=0.0)
        gains, losses = positive.sum(0), negative.sum(0)
        total = gains - losses
        # A column of zeros has purity NaN, which keeps its negative values: their sum is zero, too.
        kept = _FUNCTIONS[self.config.f](gains / total) > self._uniform(jacobian)
        if self.config.leak is None:
            direction = torch.where(kept, gains, losses)
        else:
            leak = self.constant("leak", len(jacobian), jacobian)
            masked = torch.where(kept, (1 - leak) @ positive, (1 - leak) @ negative)
            direction = leak @ jacobian + masked
        return torch.where(torch.isfinite(total), direction, torch.nan)

    def _uniform(self, jacobian: Tensor) -> Float[Tensor, " n"]:
        """Numbers in [0, 1), drawn on the CPU so that every device gives the same ones.

        They are drawn in float32, for a float64 could become 1 when it is rounded.
        """
        drawn = torch.rand(
            jacobian.shape[1], generator=self.generator, dtype=torch.float32, device="cpu"
        )
        return drawn.to(jacobian.device)
