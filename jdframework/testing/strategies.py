"""Hypothesis strategies: Jacobians, Gramians and losses that nobody thought of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

REPEATABLE: Final = settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
"""How the suites run hypothesis: the same examples every time, no folder left behind."""

# Below 1e-3 of the row's own scale, an entry only adds rounding errors to what is tested.
_ENTRIES: Final = st.sampled_from([0.0, 1.0, -1.0]) | st.floats(1e-3, 1.0) | st.floats(-1.0, -1e-3)


@st.composite
def jacobians(
    draw: Callable[[st.SearchStrategy[Any]], Any],
    rows: st.SearchStrategy[int] = st.integers(1, 6),  # noqa: B008  # strategies are immutable
    columns: st.SearchStrategy[int] = st.sampled_from((2, 0, 1, 3, 6)),  # noqa: B008
) -> Float[Tensor, "m n"]:
    """Jacobians in float64 whose rows may be zero, repeated, opposite, and of any scale.

    :param draw: Given by hypothesis.
    :param rows: How many objectives.
    :param columns: How many parameters.
    """
    m, n = draw(rows), draw(columns)
    entries = draw(st.lists(_ENTRIES, min_size=m * n, max_size=m * n))
    scales = draw(st.lists(st.integers(-6, 6), min_size=m, max_size=m))
    sources = draw(st.lists(st.integers(0, m - 1), min_size=m, max_size=m) | st.just(range(m)))
    signs = draw(st.lists(st.sampled_from([1.0, -1.0, 0.0]), min_size=m, max_size=m))
    jacobian = torch.tensor(entries, dtype=torch.float64).reshape(m, n)[list(sources)]
    factors = torch.tensor(signs, dtype=torch.float64) * 10.0 ** torch.tensor(scales)
    return jacobian * factors[:, None]


def gramians(
    rows: st.SearchStrategy[int] = st.integers(1, 6),  # noqa: B008  # strategies are immutable
) -> st.SearchStrategy[Float[Tensor, "m m"]]:
    """Gramians ``J Jᵀ`` of :func:`jacobians`.

    :param rows: How many objectives.
    """
    return jacobians(rows).map(lambda jacobian: jacobian @ jacobian.T)


def losses(
    shape: tuple[int, ...], lowest: float = 1e-6, highest: float = 1e6
) -> st.SearchStrategy[Float[Tensor, "*shape"]]:
    """Losses in float64.

    :param shape: Their shape.
    :param lowest: The smallest value.
    :param highest: The largest value.
    """
    size = torch.Size(shape).numel()
    values = st.lists(st.floats(lowest, highest), min_size=size, max_size=size)
    return values.map(lambda drawn: torch.tensor(drawn, dtype=torch.float64).reshape(shape))
