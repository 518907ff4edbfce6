"""PCD: follows the first objective, and guarantees every other a share of its own progress."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator
from torch import Tensor

from jdframework.bases import GramianWeighting, Remembering
from jdframework.config import Config, Paper, Solver, Vector
from jdframework.errors import ConfigError
from jdframework.linalg import carried_precision, nonnegative_qp, on_host
from jdframework.linalg.external_solver import external_nonnegative_qp

__all__ = ["PCD", "PCDConfig"]

Array = NDArray[np.float64]

_ROUNDING: Final = 4
"""A square of ``m`` terms below this many times ``m`` rounding errors of its terms is zero."""
_COARSE: Final = 1e-15
"""Rounding above this, relative to an entry, is that of single precision in some way."""
_ROUNDS: Final = 3
_FARTHEST: Final = 1e5
"""A direction that must be this many times longer than the primary gradient does not exist."""


class PCDConfig(Config):
    """Settings of priority-constrained descent."""

    tau: float | Vector = Field(
        0.02,
        description="The share of the progress along its own normalised gradient that each "
        "secondary objective is guaranteed, from 0 to 1: one number, or one for each of them.",
    )
    beta: float = Field(
        0.999, ge=0.0, lt=1.0, description="Decay of the running mean of each squared norm."
    )
    eps: float = Field(
        0.0,
        ge=0.0,
        description="Added to the running means. 0 treats small gradients like large ones; the "
        "authors and torchjd take 1e-8.",
    )
    solver: Solver = "exact"

    @field_validator("tau", mode="wrap")
    @classmethod
    def _shares(cls, tau: object, check: ValidatorFunctionWrapHandler) -> float | tuple[float, ...]:
        try:
            checked: float | tuple[float, ...] = check(tau)
        except ValidationError:
            raise ValueError("it must be a number, or one for each secondary objective") from None
        shares = checked if isinstance(checked, tuple) else (checked,)
        if not all(0.0 <= share <= 1.0 for share in shares):
            raise ValueError("every share must be from 0 to 1")
        return checked


class PCD(Remembering, GramianWeighting):
    """Follows the first objective as closely as the others' guaranteed progress allows.

    .. math::
        \\tilde d = \\operatorname*{argmin}_d \\lVert d - \\tilde g_1 \\rVert^2
        \\quad \\text{s.t.} \\quad \\tilde g_j \\cdot d \\ge \\tau \\lVert \\tilde g_j \\rVert^2
        \\ (j \\ge 2), \\qquad \\tilde g_i = g_i / \\sqrt{\\hat v_i + \\epsilon}

    with :math:`\\hat v_i` the bias-corrected running mean of :math:`\\lVert g_i \\rVert^2`. The
    update is :math:`\\tilde d` at the length of :math:`g_1` (Varam & AlHajri 2026). **The order
    matters**: the first objective, the first row of the Jacobian, is the primary one.

    The problem is solved to the last digits on the Gramian of the unit gradients. The authors' code
    tries all :math:`2^{m-1}` sets of constraints. torchjd and they add an absolute 1e-8 to the
    running means, which takes gradients shorter than 1e-4 out of the normalisation;
    ``eps=1e-8`` gives their numbers. The running means are in ``state_dict()`` and load into a
    fresh instance, where torchjd refuses them (E12 of the ledger).

    If no direction meets all constraints (two opposite secondary gradients, say), or only one
    1e5 times longer than the primary gradient, the update is :math:`g_1`. If :math:`g_1` is zero,
    or with ``tau=0`` no direction but zero harms nobody, the weights are all zero. A secondary
    gradient that is zero constrains nothing.

    :param tau: The guaranteed share, one number or one for each secondary objective.
    :param beta: Decay of the running means.
    :param eps: Added to them.
    :param solver: ``"exact"``, or any solver that qpsolvers finds installed.
    :raises ConfigError: at the call, if ``tau`` has not one number for each secondary objective,
        or there are more or fewer objectives than before.
    :raises SolverError: if the problem cannot be solved to the promised precision.

    >>> import torch
    >>> PCD()(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]))
    tensor([1.1544, 0.6003])

    In a training loop, the main task comes first::

        descent = jd.Descent(model, "pcd", tau=0.1)
        for inputs, targets in loader:
            losses = criterion(model(inputs), targets)
            descent.backward({"main": losses[0], "auxiliary": losses[1]})
            optimizer.step()
            optimizer.zero_grad()
    """

    Config = PCDConfig
    config: PCDConfig
    averages: Tensor
    """The running means, not yet divided by :attr:`weight`."""
    weight: Tensor
    """What the running mean of ones would be."""
    memory: ClassVar[tuple[str, ...]] = ("averages", "weight")
    claims: ClassVar[Mapping[str, Any]] = {
        "permutation_equivariant": False,
        "permutation_invariant": False,
    }
    paper = Paper(
        title="Not All Objectives Are Born Equal: Priority-Constrained Descent for Hierarchical "
        "Multi-Objective Optimization",
        authors="Dara Varam, Mohamed I. AlHajri",
        venue="TMLR",
        year=2026,
        url="https://arxiv.org/abs/2606.29521",
    )

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """The weights of the direction, at the length of the primary gradient."""
        shares = self._shares(len(gramian) - 1)
        squares = self._remember(gramian) + self.config.eps
        solve = partial(_prioritised, self.config.solver, shares)
        return on_host(solve, gramian, squares, shape=(len(gramian),))

    def _remember(self, gramian: Tensor) -> Float[Tensor, " m"]:
        """The running means with these gradients; of what is not finite nothing stays."""
        now, beta = gramian.diagonal(), self.config.beta
        averages = self.recalled("averages", torch.zeros_like(now))
        weight = self.recalled("weight", now.new_zeros(()))
        finite = gramian.isfinite().all()
        self.averages = torch.where(finite, beta * averages + (1 - beta) * now, averages)
        self.weight = torch.where(finite, beta * weight + (1 - beta), weight)
        return self.averages / self.weight

    def _shares(self, secondary: int) -> Array:
        tau = self.config.tau
        if isinstance(tau, tuple) and len(tau) != secondary:
            raise ConfigError(
                f"{self.name}: tau has {len(tau)} values, but there are {secondary} objectives "
                f"besides the first one"
            )
        return np.broadcast_to(np.asarray(tau, dtype=np.float64), secondary)


def _prioritised(solver: str, shares: Array, gramian: Array, squares: Array) -> Array:
    m = len(gramian)
    weights = np.zeros(m)
    norms = np.sqrt(np.maximum(gramian.diagonal(), 0.0))
    if norms[0] <= 0.0:
        return weights
    present = np.flatnonzero(norms > 0.0)  # the primary one is the first of them
    inverse = 1.0 / norms[present]
    unit = gramian[np.ix_(present, present)] * inverse * inverse[:, None]
    np.fill_diagonal(unit, 1.0)
    scaled = norms[present] / np.sqrt(squares[present])
    # In units of the primary's normalised length: unit_j . x >= wanted_j for the secondary ones.
    wanted = shares[present[1:] - 1] * scaled[1:] / scaled[0] - unit[1:, 0]
    rounding = _ROUNDING * m * carried_precision(torch.from_numpy(gramian))
    multipliers = np.append(1.0, _multipliers(solver, unit[1:, 1:], wanted, rounding))
    square = float(multipliers @ unit @ multipliers)
    if square > rounding * float(multipliers @ np.abs(unit) @ multipliers):
        weights[present] = multipliers * (norms[0] / norms[present]) / np.sqrt(square)
    return weights


def _multipliers(solver: str, unit: Array, wanted: Array, rounding: float) -> Array:
    """What of each row is added to reach ``wanted``; nothing if that cannot be reached."""
    if len(wanted) == 1 and solver == "exact":
        return np.maximum(wanted, 0.0)
    if not (wanted > 0.0).any() or not _is_within_reach(unit, wanted, rounding):
        return np.zeros_like(wanted)
    solve = nonnegative_qp if solver == "exact" else partial(external_nonnegative_qp, solver)
    if rounding < _ROUNDING * (1 + len(unit)) * _COARSE:
        return solve(unit, -wanted[:, None])[:, 0]
    # Of dependent rows, rounding leaves a matrix that is not semi-definite, whose semi-definite
    # part does not know all of what is wanted. A ridge around the last solution mends both.
    found = np.zeros_like(wanted)
    for _ in range(_ROUNDS):
        right_side = wanted + rounding * found
        found = solve(unit + rounding * np.eye(len(unit)), -right_side[:, None])[:, 0]
    return found


def _is_within_reach(unit: Array, wanted: Array, rounding: float) -> bool:
    """Whether some ``x`` has ``A x >= wanted`` and is no longer than ``_FARTHEST``.

    By least-distance programming (Lawson & Hanson 1974, chapter 23): with ``u >= 0`` the minimiser
    of ``|Aᵀu|² + (wanted·u - 1)²``, the shortest such ``x`` has ``1 - wanted·u = 1 / (1 + |x|²)``,
    and there is none where that is zero, and with it ``Aᵀu``. This problem always has a solution.
    """
    relative = wanted / max(1.0, wanted.max())
    matrix = unit + np.outer(relative, relative)
    found = nonnegative_qp(matrix, -relative[:, None])[:, 0]
    square, terms = float(found @ unit @ found), float(found @ np.abs(unit) @ found)
    return 1.0 - float(relative @ found) > _FARTHEST**-2 and square > rounding * terms
