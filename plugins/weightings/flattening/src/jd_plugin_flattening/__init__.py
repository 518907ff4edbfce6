"""Flattening: any weighting, for losses of any shape."""

from __future__ import annotations

import math
from typing import Any

from jaxtyping import Float
from torch import Tensor

import jdframework as jd
from jdframework.bases import WeightingWrapper
from jdframework.errors import ConfigError

__all__ = ["Flattening"]


class Flattening(WeightingWrapper):
    """Gives each entry of a grid of losses a weight, by any weighting for a plain list of them.

    The generalized Gramian of losses ``[m1, m2]`` has the shape ``[m1, m2, m2, m1]``, as
    :func:`jdframework.linalg.generalized` gives it; the weights then are ``[m1, m2]``. In formulas,
    where the weighting ``inner`` maps a Gramian :math:`G` to :math:`w(G)`:

    .. math::
        a_{ij} = w(G)_{i m_2 + j}, \\qquad
        G_{i m_2 + j, \\, k m_2 + l} = H_{i, j, l, k}

    and likewise for any even number of dimensions, the second half of which are those of the first
    in reverse order. A plain Gramian ``[m, m]`` gets what ``inner`` gives it, so a
    :class:`~jdframework.Descent` does not need it: it takes losses of any shape itself.

    torchjd 0.18 flattens and reshapes generalized Gramians, but no longer has the weighting.

    :param inner: The weighting: a name, a mapping with settings, or a ready instance. Its state is
        part of this method's.
    :raises ConfigError: if ``inner`` needs the Jacobian, which a Gramian does not tell.

    >>> import torch
    >>> from jdframework import bases, linalg
    >>> class Inverse(bases.GramianWeighting):
    ...     def forward(self, gramian):
    ...         return 1 / gramian.diagonal()
    >>> gramian = torch.diag(torch.tensor([1.0, 2.0, 4.0, 5.0, 8.0, 10.0]))
    >>> Flattening(inner=Inverse())(linalg.generalized(gramian, (2, 3)))
    tensor([[1.0000, 0.5000, 0.2500],
            [0.2000, 0.1250, 0.1000]])
    """

    resolve = staticmethod(jd.weighting)

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        if "jacobian" in self.needs:
            raise ConfigError(
                f"{self.name}: inner = {self.config.inner!r} was given, which needs the Jacobian, "
                f"but only a Gramian can be flattened"
            )

    def __call__(self, gramian: Float[Tensor, "..."], /, **extra: Tensor) -> Float[Tensor, "..."]:
        """The weights.

        :param gramian: ``[m1, …, mk, mk, …, m1]``, any floating dtype.
        :param extra: What else ``inner`` needs, by name: ``losses`` of any shape.
        :return: ``[m1, …, mk]``.
        :raises ValueError: if its shape does not read the same backwards, or it is empty.
        """
        order = gramian.ndim // 2
        shape = gramian.shape[:order]
        if gramian.shape != shape + shape[::-1] or not gramian.numel():
            raise ValueError(
                f"{self.name} needs a generalized Gramian, of a shape like [m1, m2, m2, m1], "
                f"not {list(gramian.shape)}"
            )
        m = math.prod(shape)
        axes = [*range(order), *reversed(range(order, 2 * order))]
        flat = {name: tensor.flatten() for name, tensor in extra.items()}
        return super().__call__(gramian.permute(axes).reshape(m, m), **flat).reshape(shape)

    def forward(self, gramian: Float[Tensor, "m m"], /, **extra: Tensor) -> Float[Tensor, " m"]:
        """What the inner weighting gives."""
        weights: Tensor = self.inner(gramian, **extra)
        return weights
