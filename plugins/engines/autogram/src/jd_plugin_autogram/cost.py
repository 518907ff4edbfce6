"""Which form of a product is cheaper, by the number of multiply-adds."""

from __future__ import annotations

from typing import Final

_TRAFFIC: Final = 64
"""How many multiply-adds take as long as writing one number to memory and reading it twice."""
_OVERHEAD: Final = 2**22
"""How many multiply-adds take as long as what a layer by itself costs besides them."""


def ghost_is_cheaper(k: int, n: int, length: int, inputs: int, outputs: int) -> bool:
    """Whether the Gramian of a product takes less time without making the rows.

    :param k: Losses per instance.
    :param n: Instances.
    :param length: ``T``, the positions of an instance at which the layer is applied.
    :param inputs: ``d``.
    :param outputs: ``p``.
    """
    m, area = n * k, inputs * outputs
    rows = m * area * (length + m + _TRAFFIC)
    # Rows that were kept give the update for nothing; without them it is one more product.
    update = n * length * area
    if n == 1:
        ghost = length * length * (inputs + k * outputs) + m * m * length * outputs
    else:
        entries = (n * length) ** 2
        ghost = entries * (inputs + k * k * outputs + k * k * _TRAFFIC)
    alone = _OVERHEAD if n == 1 else 0  # autograd's own rows come with those of all other layers
    return ghost + update + alone <= rows


def tokens_are_cheaper(k: int, size: int) -> bool:
    """Whether the Gramian of a table takes less time by the tokens that occur.

    :param k: Losses of the whole batch.
    :param size: How many numbers the table has.
    """
    return k * size * _TRAFFIC >= _OVERHEAD
