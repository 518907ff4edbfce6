"""GradVac: gradients are turned towards each other up to a running target of their cosine."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from jdframework.bases import GramianWeighting, Randomised, SeededConfig, initial_device
from jdframework.config import Paper
from jdframework.errors import ConfigError
from jdframework.linalg import carried_precision, on_host
from jdframework.linalg.unit_problem import unit_rows

__all__ = ["GradVac", "GradVacConfig"]

Array = NDArray[np.float64]
Orders = NDArray[np.int64]

_ROUNDING: Final = 4
"""A square of ``m`` terms below this many times ``m`` rounding errors is zero."""


class GradVacConfig(SeededConfig):
    """Settings of GradVac."""

    beta: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="The share of the cosine just seen in its running target; 1e-2 in the paper.",
    )
    eps: float = Field(
        1e-8,
        gt=0.0,
        description="Added to the denominators, where gradients have length one: of a gradient "
        "shrunk to less than this share of its length the cosines fade to zero, and no weight "
        "of a unit gradient exceeds the reciprocal.",
    )


class GradVac(Randomised, GramianWeighting):
    """Turns each gradient towards the others, up to the cosine that they usually have.

    .. math::
        u_i \\leftarrow u_i + \\lVert u_i \\rVert
        \\frac{t_{ij} \\sqrt{1 - \\varphi^2} - \\varphi \\sqrt{1 - t_{ij}^2}}
        {\\lVert g_j \\rVert \\sqrt{1 - t_{ij}^2}} g_j
        \\quad \\text{if } \\varphi = \\cos(u_i, g_j) < t_{ij}, \\qquad
        t_{ij} \\leftarrow (1 - \\beta) t_{ij} + \\beta \\varphi

    for all ``j ≠ i`` in random order, from ``u_i = g_i`` and, at the first call, ``t = 0``; the
    update is the sum of the ``u_i`` (Wang et al. 2021, Algorithm 1). With ``t = 0`` that is PCGrad.
    All ``u_i`` take a step at once, which gives the same numbers as one after the other.

    The roots are taken of what rounding cannot make negative; without that, opposite gradients
    give NaN. ``eps`` is relative to the gradients, so that small ones are treated like large ones.
    A pair with a zero gradient, which has no cosine, is left as it is, its target too. The targets
    ``t`` are in ``state_dict()`` and load into a fresh instance.

    :param beta: The share of the new cosine in its target.
    :param eps: Added to the denominators, relative to the gradients.
    :param seed: Seed of the method's own generator, whose state is saved with ``state_dict()``.
        None draws from torch's global generator.
    :raises ConfigError: at the call, if the targets are those of another number of objectives.

    >>> import torch
    >>> GradVac(seed=0)(torch.tensor([[1.0, -1.0], [-1.0, 4.0]]))
    tensor([2.0000, 1.2500])
    """

    Config: ClassVar[type[SeededConfig]] = GradVacConfig
    config: GradVacConfig
    paper = Paper(
        title="Gradient Vaccine: Investigating and Improving Multi-task Optimization in "
        "Massively Multilingual Models",
        authors="Zirui Wang, Yulia Tsvetkov, Orhan Firat, Yuan Cao",
        venue="ICLR",
        year=2021,
        url="https://arxiv.org/abs/2010.05874",
    )

    targets: Tensor
    """``t`` ``[m, m]``; ``[0, 0]`` before the first call, which tells ``m``."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_buffer("targets", _no_targets())

    def reset(self) -> None:
        """Forgets the targets, and starts the sequence of random numbers anew."""
        super().reset()
        self.targets = _no_targets().to(self.targets.device)

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """The weights whose combination is the sum of the turned gradients."""
        m = len(gramian)
        targets = self._targets(gramian)
        vaccinated = partial(_vaccinated, self.orders(m).numpy(), self.config.beta, self.config.eps)
        answer = on_host(vaccinated, gramian, targets, shape=(m + 1, m))
        found = answer[1:]
        # A Gramian that is not finite gives NaN: it must not stay in the targets.
        self.targets = torch.where(found.isfinite(), found, targets)
        return answer[0].clone()

    def _targets(self, gramian: Tensor) -> Tensor:
        m = len(gramian)
        if not self.targets.numel():
            return gramian.new_zeros(m, m)
        if len(self.targets) != m:
            raise ConfigError(
                f"{self.name} remembers targets for {len(self.targets)} objectives, but there are "
                f"{m}: call reset() first, or use one instance for each"
            )
        return self.targets.to(device=gramian.device, dtype=gramian.dtype)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        """Makes room for saved targets of any size before torch copies them."""
        saved = state_dict.get(f"{prefix}targets")
        if isinstance(saved, Tensor):
            self.targets = self.targets.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def _no_targets() -> Tensor:
    return torch.zeros(0, 0, dtype=torch.float64, device=initial_device())


def _vaccinated(orders: Orders, beta: float, eps: float, gramian: Array, targets: Array) -> Array:
    """The weights, and below them the new targets."""
    cosines, norms = unit_rows(gramian)
    pairs = np.arange(len(norms))[:, None], orders
    rounding = _ROUNDING * len(norms) * carried_precision(torch.from_numpy(gramian))
    turned, seen = _turned(orders, eps, cosines, targets[pairs], rounding)
    paired = (norms > 0.0) & (norms[:, None] > 0.0)
    renewed = targets.copy()
    renewed[pairs] += np.where(paired[pairs], beta * (seen - targets[pairs]), 0.0)
    ratios = np.divide(norms[:, None], norms, out=np.eye(len(norms)), where=norms > 0.0)
    return np.vstack([(turned * ratios).sum(axis=0), renewed])


def _turned(
    orders: Orders, eps: float, cosines: Array, targets: Array, rounding: float
) -> tuple[Array, Array]:
    """Row ``i``: ``u_i / |g_i|`` in terms of the unit gradients; and the cosines met on the way.

    :param targets: Those of the pairs in the order of their turns, like ``orders`` ``[m, m - 1]``.
    :param rounding: A square below this is zero: what is left has no direction.
    """
    sines = _sine(targets)
    of_sine, of_cosine = targets / (sines + eps), sines / (sines + eps)
    seen = np.empty_like(targets)
    turned, products = np.eye(len(cosines)), cosines.copy()  # the latter: turned @ cosines
    rows = np.arange(len(cosines))
    space = np.empty_like(cosines)  # fresh memory in every turn can cost ten times the turn
    for turn, others in enumerate(orders.T):
        squares = np.einsum("ik,ik->i", products, turned)
        lengths = np.sqrt(np.where(squares > rounding, squares, 0.0))
        cosine = np.where(lengths > 0.0, products[rows, others] / (lengths + eps), 0.0)
        cosine = np.minimum(np.maximum(cosine, -1.0), 1.0)
        wanted = of_sine[:, turn] * _sine(cosine) - of_cosine[:, turn] * cosine
        added = np.where(cosine < targets[:, turn], lengths * wanted, 0.0)
        turned[rows, others] = added
        np.take(cosines, others, axis=0, out=space, mode="clip")
        np.multiply(space, added[:, None], out=space)
        products += space
        seen[:, turn] = cosine
    return turned, seen


def _sine(cosine: Array) -> Array:
    """Of the angle with this cosine, which rounding may have put beyond one."""
    return np.asarray(np.sqrt(np.maximum((1.0 - cosine) * (1.0 + cosine), 0.0)))
