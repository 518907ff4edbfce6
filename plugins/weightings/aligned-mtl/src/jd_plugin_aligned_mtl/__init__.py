"""Aligned-MTL: the gradients are made orthogonal and equally long, then averaged."""

from __future__ import annotations

from functools import partial
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from jdframework.bases import GramianWeighting, PreferenceConfig, Preferring
from jdframework.config import Paper
from jdframework.errors import SolverError
from jdframework.linalg import carried_precision, on_host
from jdframework.linalg.threads import one_thread

__all__ = ["AlignedMTL", "AlignedMTLConfig"]

_Array = NDArray[np.float64]

_CONDITIONED: Final = 1e-4
"""Eigenvalues above this share of the largest lose no digit that matters; else `dgejsv` is used."""
_FULL_ACCURACY: Final = {"joba": 2, "jobu": 0, "jobv": 3, "jobr": 0, "jobt": 0, "jobp": 0}
"""dgejsv: pivot rows and columns, find the left vectors, set no small singular value to zero."""


class AlignedMTLConfig(PreferenceConfig):
    """Settings of Aligned-MTL."""

    scale_mode: Literal["min", "median", "rmse"] = Field(
        "min",
        description="The common length: the smallest singular value of the Jacobian ('min'), "
        "the lower median ('median') or the root of their mean square ('rmse').",
    )


class AlignedMTL(Preferring, GramianWeighting):
    """Replaces the gradients by the nearest orthogonal ones of equal length, and averages those.

    .. math::
        a = \\sigma\\, V \\Lambda^{-1/2} V^\\top b, \\qquad G = V \\Lambda V^\\top

    with only the positive eigenvalues kept, and :math:`\\sigma^2` the smallest, the lower median
    or the mean of them (Senushkin et al. 2023, Algorithm 1). The system of gradients then has
    condition number one.

    Which eigenvalues are zero is decided on the Gramian of the unit gradients, and the others are
    found to their own precision (Drmač & Veselić 2008, LAPACK's dgejsv). Gradients whose norms
    differ by a factor of 1e6 therefore all count, where other implementations drop those below
    about 1e-7 of the largest. The authors' code and LibMTL take ``b = 1``, which makes the update
    ``m`` times as long, and call ``torch.symeig``, which PyTorch no longer has.

    With ``scale_mode="min"``, the update becomes short as two gradients become parallel, and
    jumps back once they are parallel to rounding, for the rank is then lower.

    :param pref_vector: ``b``, one number per objective; ``1/m`` each when None.
    :param scale_mode: What :math:`\\sigma` is: ``"min"``, ``"median"`` or ``"rmse"``.
    :raises ConfigError: at the call, if ``pref_vector`` has another length than the Gramian.
    :raises SolverError: if LAPACK finds no singular values.

    >>> import torch
    >>> AlignedMTL()(torch.tensor([[1.0, 0.0], [0.0, 16.0]]))
    tensor([0.5000, 0.1250])
    """

    Config = AlignedMTLConfig
    config: AlignedMTLConfig
    paper = Paper(
        title="Independent Component Alignment for Multi-Task Learning",
        authors="Dmitry Senushkin, Nikolay Patakin, Arseny Kuznetsov, Anton Konushin",
        venue="CVPR",
        year=2023,
        url="https://arxiv.org/abs/2305.19000",
    )

    def forward(self, gramian: Float[Tensor, "m m"], /) -> Float[Tensor, " m"]:
        """The weights whose combination is the mean of the aligned gradients."""
        align = partial(_aligned, self.config.scale_mode)
        return on_host(align, gramian, self.preferences(gramian), shape=(len(gramian),))


def _aligned(scale_mode: str, gramian: _Array, preferences: _Array) -> _Array:
    tolerance = len(gramian) * carried_precision(torch.from_numpy(gramian))
    values, vectors = _components(gramian, tolerance)
    components = vectors.T @ preferences
    # Preferences whose combination vanishes leave only rounding, which would have a direction.
    if np.linalg.norm(components) <= 10 * tolerance * np.linalg.norm(preferences):
        return np.zeros_like(preferences)
    mixed: _Array = vectors @ (components * (_scale(values, scale_mode) / values))
    return mixed


def _components(gramian: _Array, tolerance: float) -> tuple[_Array, _Array]:
    """Singular values and left vectors of the Jacobian, but for those that are zero."""
    values, vectors = np.linalg.eigh(gramian)
    if values[0] > _CONDITIONED * values[-1]:
        return np.sqrt(values), vectors
    return _singular(_factor(gramian, tolerance))


def _factor(gramian: _Array, tolerance: float) -> _Array:
    """``L`` ``[m, rank]`` with ``G = L Lᵀ``, well conditioned up to the lengths of its rows."""
    norms = np.sqrt(np.maximum(gramian.diagonal(), 0.0))
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    values, vectors = np.linalg.eigh(gramian * inverse * inverse[:, None])
    kept = values > tolerance * max(values[-1], 0.0)
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]) * norms[:, None])


def _singular(factor: _Array) -> tuple[_Array, _Array]:
    """The singular values ``[rank]`` and left vectors ``[m, rank]``, each to its own precision."""
    from scipy.linalg.lapack import dgejsv

    if not factor.size:
        return np.zeros(0), factor
    with one_thread():
        values, vectors, _, scales, _, status = dgejsv(factor, **_FULL_ACCURACY)
    if status != 0:
        raise SolverError(
            f"aligned-mtl: LAPACK's dgejsv found no singular values of the Gramian's factor "
            f"{list(factor.shape)} (status {status})"
        )
    return values * (scales[0] / scales[1]), vectors


def _scale(values: _Array, scale_mode: str) -> float:
    if scale_mode == "min":
        return float(values.min())
    if scale_mode == "median":
        return float(np.sort(values)[(values.size - 1) // 2])
    return float(np.sqrt(np.mean(values**2)))
