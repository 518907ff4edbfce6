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
_EVEN: Final = 1e-2
"""Squares of lengths down to this share of the largest keep a rank what it is for unit rows."""
_FULL_ACCURACY: Final = {"joba": 2, "jobu": 0, "jobv": 0, "jobr": 0, "jobt": 0, "jobp": 0}
"""dgejsv: pivot rows and columns, find all vectors, set no small singular value to zero."""


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

    The weights have no derivative with respect to the gradients, and the direction of
    ``jd.aggregator`` has no graph, where torchjd 0.18 differentiates the eigendecomposition.

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
    # Preferences whose combination vanishes leave only rounding, which would have a direction.
    least = 10 * tolerance * float(np.linalg.norm(preferences))
    values, vectors = np.linalg.eigh(gramian)
    if values[0] > _CONDITIONED * values[-1]:
        return _mixed(np.sqrt(values), vectors, preferences, scale_mode, least)[0]
    if _is_of_clear_rank(gramian, values, tolerance):
        kept = values > _CONDITIONED * values[-1]
        values, vectors = values[kept], np.ascontiguousarray(vectors[:, kept])
        return _mixed(np.sqrt(values), vectors, preferences, scale_mode, least)[0]
    norms, inverse, basis, roots = _unit_components(gramian, tolerance)
    if not roots.size:
        return np.zeros_like(preferences)
    factor = basis * roots * norms[:, None]
    values, vectors, right = _singular(factor)
    weights, aligned = _mixed(values, vectors, preferences, scale_mode, least)
    # The vectors of small singular values are right only to the rounding of their largest entries,
    # which long gradients multiply; of the update, in an orthonormal basis, all digits are known.
    missing = right @ aligned - factor.T @ weights
    return np.asarray(weights + inverse * ((basis / roots) @ missing))


def _is_of_clear_rank(gramian: _Array, values: _Array, tolerance: float) -> bool:
    """Whether eigenvalues are zero but for rounding or large, and no row is short.

    Those of the unit gradients are then zero as often, and none loses a digit that matters.
    """
    squares = gramian.diagonal()
    small = values[values <= _CONDITIONED * values[-1]]
    zero = small.size and np.abs(small).max() <= tolerance * values[-1]
    return bool(zero and squares.min() > _EVEN * squares.max())


def _mixed(
    values: _Array, vectors: _Array, preferences: _Array, scale_mode: str, least: float
) -> tuple[_Array, _Array]:
    """The weights, and what the update is in terms of the right singular vectors."""
    components = vectors.T @ preferences
    if np.linalg.norm(components) <= least:
        return np.zeros_like(preferences), np.zeros_like(components)
    scale = _scale(values, scale_mode)
    return np.asarray(vectors @ (components * (scale / values))), np.asarray(scale * components)


def _unit_components(gramian: _Array, tolerance: float) -> tuple[_Array, ...]:
    """The norms, and one over them; the unit gradients' left vectors and singular values."""
    norms = np.sqrt(np.maximum(gramian.diagonal(), 0.0))
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    values, vectors = np.linalg.eigh(gramian * inverse * inverse[:, None])
    kept = values > tolerance * max(values[-1], 0.0)
    return norms, inverse, vectors[:, kept], np.sqrt(values[kept])


def _singular(factor: _Array) -> tuple[_Array, _Array, _Array]:
    """Singular values ``[rank]``, each to its own precision, left and right vectors as columns."""
    from scipy.linalg.lapack import dgejsv

    with one_thread():
        values, vectors, right, scales, _, status = dgejsv(factor, **_FULL_ACCURACY)
    if status != 0:
        raise SolverError(
            f"aligned-mtl: LAPACK's dgejsv found no singular values of the Gramian's factor "
            f"{list(factor.shape)} (status {status})"
        )
    return values * (scales[0] / scales[1]), vectors, right


def _scale(values: _Array, scale_mode: str) -> float:
    if scale_mode == "min":
        return float(values.min())
    if scale_mode == "median":
        return float(np.sort(values)[(values.size - 1) // 2])
    return float(np.sqrt(np.mean(values**2)))
