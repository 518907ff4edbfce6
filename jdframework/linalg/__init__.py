"""What several methods share: Gramians, and exact solvers for the small problems built on them."""

from jdframework.linalg.dual_cone import project_on_dual_cone
from jdframework.linalg.gramian import (
    Normalised,
    cosines,
    cross_gramian,
    generalized,
    gramian,
    lengths,
    normalised,
    weighted_sum,
)
from jdframework.linalg.host import on_host
from jdframework.linalg.impartial import impartial_weights
from jdframework.linalg.min_norm import min_norm_weights
from jdframework.linalg.newton import fair_weights
from jdframework.linalg.nonnegative import nonnegative_qp
from jdframework.linalg.simplex import simplex_projection
from jdframework.linalg.spectral import (
    carried_precision,
    of_single_rows,
    pseudo_solve,
    rows_precision,
)

__all__ = [
    "Normalised",
    "carried_precision",
    "cosines",
    "cross_gramian",
    "fair_weights",
    "generalized",
    "gramian",
    "impartial_weights",
    "lengths",
    "min_norm_weights",
    "nonnegative_qp",
    "normalised",
    "of_single_rows",
    "on_host",
    "project_on_dual_cone",
    "pseudo_solve",
    "rows_precision",
    "simplex_projection",
    "weighted_sum",
]
