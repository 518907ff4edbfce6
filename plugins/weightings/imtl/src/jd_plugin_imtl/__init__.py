"""IMTL: learned scales for the losses, and impartial projections for their gradients."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jdframework.bases import GramianWeighting, Shaped, ShapedConfig, losses_for
from jdframework.config import Paper
from jdframework.errors import ConfigError
from jdframework.linalg import impartial_weights
from jdframework.protocols.names import Need

__all__ = ["IMTL"]

_CANCELLED: Final = 1e-12
"""A sum below this share of its terms is zero."""


class IMTL(Shaped, GramianWeighting):
    """Learns scales that make the losses equally large, and projects impartially on the result.

    .. math::
        w_i = e^{s_i} \\alpha_i, \\qquad \\alpha = \\text{imtl-g}(E G E), \\quad
        E = \\operatorname{diag}(e^{s}), \\qquad
        \\min_s \\sum_i e^{s_i} L_i - s_i

    The hybrid of ``imtl-l`` and ``imtl-g`` (Liu et al. 2021, Algorithm 1): the update has equal
    projections on all gradients, and its :math:`\\alpha`, which sum to one, belong to the scaled
    losses. The scales cancel out in the direction, which is that of ``imtl-g`` up to its sign: they
    only change the length, :math:`w = a / \\sum_j a_j e^{-s_j}` with ``a`` of ``imtl-g`` itself.
    Where that sum is zero, so are the weights.

    ``s`` is trained: give ``descent.parameters()`` to the optimizer, without weight decay. Each
    call adds :math:`e^{s_i} L_i - 1` to ``s.grad``, the gradient of the sum above, which does not
    depend on :math:`\\alpha`. The paper scales the heads' gradients by :math:`e^{s_i}` too, and so
    does LibMTL; ``Descent`` gives what is past ``features`` its plain gradient. An adaptive
    optimizer takes the same steps for both, and for another one there is the head's own learning
    rate. LibMTL inverts a matrix that is singular for parallel gradients; here that is solved.

    :param shape: The losses' shape, as an int or a tuple of ints; as many as the first call's
        objectives when None.
    :raises ValueError: if it is called without the losses.
    :raises ConfigError: at the call, if there are more or fewer objectives than ``shape``, or the
        first call, says.

    >>> import torch
    >>> imtl = IMTL()
    >>> imtl(torch.tensor([[1.0, 0.0], [0.0, 4.0]]), losses=torch.tensor([1.0, 3.0]))
    tensor([0.6667, 0.3333])
    >>> imtl.s.grad
    tensor([0., 2.])

    In a training loop, the optimizer trains the scales, too::

        descent = jd.Descent(model, "imtl")
        optimizer = torch.optim.SGD([*model.parameters(), *descent.parameters()], lr=0.1)
        for inputs, targets in loader:
            descent.backward(criterion(model(inputs), targets))
            optimizer.step()
            optimizer.zero_grad()
    """

    Config: ClassVar[type[ShapedConfig]] = ShapedConfig
    config: ShapedConfig
    trainable: ClassVar[bool] = True
    per_loss: ClassVar[tuple[str, ...]] = ("s",)
    needs: frozenset[Need] = frozenset({"gramian", "losses"})
    paper = Paper(
        title="Towards Impartial Multi-task Learning",
        authors="Liyang Liu, Yi Li, Zhanghui Kuang, Jing-Hao Xue, Yimin Chen, Wenming Yang, "
        "Qingmin Liao, Wayne Zhang",
        venue="ICLR",
        year=2021,
        url="https://openreview.net/forum?id=IMPnRXEWpvr",
    )

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.s = nn.Parameter(self.initial())

    def forward(
        self, gramian: Float[Tensor, "m m"], /, losses: Float[Tensor, " m"] | None = None
    ) -> Float[Tensor, " m"]:
        """The weights; adds to the gradient of ``s``."""
        values = losses_for(self, losses, gramian)
        if not self.s.numel():
            self.take_shape(values.shape, gramian.device)
        elif self.s.numel() != len(gramian):
            raise ConfigError(
                f"{self.name} {self.origin_of_shape}, but there are {len(gramian)} objectives"
            )
        scales = self.s.detach().flatten().to(gramian).exp()
        impartial = impartial_weights(gramian)
        shares = impartial / scales
        cancelling = shares.sum().abs() <= _CANCELLED * shares.abs().sum()
        weights = torch.where(cancelling, 0.0, impartial / shares.sum())
        self._learn(scales * values - 1)
        return weights

    def _learn(self, gradient: Float[Tensor, " m"]) -> None:
        """Adds to ``s.grad``, as a backward pass would."""
        if self.s.requires_grad:
            gradient = gradient.reshape(self.s.shape).to(self.s)
            self.s.grad = gradient if self.s.grad is None else self.s.grad + gradient

    @torch.no_grad()
    def reset(self) -> None:
        """Puts every ``s`` back to zero; the shape stays, as an optimizer may know it."""
        self.s.zero_()
