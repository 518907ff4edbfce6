"""Which form of a product is cheaper, by the number of multiply-adds."""

from __future__ import annotations


def ghost_is_cheaper(m: int, length: int, inputs: int, outputs: int) -> bool:
    """Whether ``m²T²(d + p)`` beats ``m·T·d·p + m²·d·p``.

    :param m: The number of objectives.
    :param length: ``T``, the positions at which the layer is applied.
    :param inputs: ``d``.
    :param outputs: ``p``.
    """
    return length * _harmonic(m, length) <= _harmonic(inputs, outputs)


def _harmonic(a: int, b: int) -> float:
    return 2 * a * b / (a + b)
