"""Operations on single entries, to whose output a smaller tensor is broadcast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor

from jd_plugin_autogram.factors import Factors
from jd_plugin_autogram.layout import Layout
from jd_plugin_autogram.operations.base import (
    Operation,
    TensorUse,
    broadcast_dims,
    output_shape,
    summed,
)


def _use(
    node: Any, shape: Sequence[int], derivative: Callable[[Tensor], Tensor] | None = None
) -> TensorUse:
    """The use of what is broadcast, given how its own gradient follows from the output's."""
    own = tuple(shape)

    def make(target: Tensor, gradient: Tensor, layout: Layout, _: bool) -> Factors:
        return summed(target, gradient if derivative is None else derivative(gradient), layout, own)

    return TensorUse(broadcast_dims(own, output_shape(node)), make)


class Addition(Operation):
    """``x + a y``."""

    nodes: ClassVar[tuple[str, ...]] = ("AddBackward0", "SubBackward0")

    def use(self, node: Any, position: int, shape: Sequence[int]) -> TensorUse | None:
        """The gradient itself, times its factor for the second."""
        sign = -1 if node.name().startswith("Sub") else 1
        alpha = sign * node._saved_alpha if position == 1 else 1
        return _use(node, shape, None if alpha == 1 else lambda gradient: gradient * alpha)


class Multiplication(Operation):
    """``x ∘ y``."""

    nodes: ClassVar[tuple[str, ...]] = ("MulBackward0",)

    def use(self, node: Any, position: int, shape: Sequence[int]) -> TensorUse | None:
        """The gradient times the other."""
        other = node._saved_other if position == 0 else node._saved_self
        if not isinstance(other, Tensor) or other.is_complex():
            return None
        scale = other.detach()
        return _use(node, shape, lambda gradient: gradient * scale)


class Division(Operation):
    """``x / y``."""

    nodes: ClassVar[tuple[str, ...]] = ("DivBackward0",)

    def use(self, node: Any, position: int, shape: Sequence[int]) -> TensorUse | None:
        """The gradient over y, or times ``-x / y²``."""
        below = node._saved_other
        if not isinstance(below, Tensor) or below.is_complex():
            return None
        below = below.detach()
        if position == 0:
            return _use(node, shape, lambda gradient: gradient / below)
        above = node._saved_self
        if not isinstance(above, Tensor):
            return None
        ratio = -above.detach() / (below * below)
        return _use(node, shape, lambda gradient: gradient * ratio)


class Selection(Operation):
    """``where(condition, x, y)`` and ``x.masked_fill(mask, number)``."""

    nodes: ClassVar[tuple[str, ...]] = ("WhereBackward0", "MaskedFillBackward0")

    def use(self, node: Any, position: int, shape: Sequence[int]) -> TensorUse | None:
        """The gradient where the input was taken."""
        if node.name().startswith("Masked"):
            if position != 0:
                return None
            mask = ~node._saved_mask
        else:
            # Autograd leaves the condition out of the node's inputs in some versions.
            inputs = len(node.next_functions)
            condition = node._saved_condition
            mask = condition if position == inputs - 2 else ~condition
        return _use(node, shape, lambda gradient: gradient * mask)


class Expansion(Operation):
    """``x.expand(…)``."""

    nodes: ClassVar[tuple[str, ...]] = ("ExpandBackward0",)

    def use(self, node: Any, position: int, shape: Sequence[int]) -> TensorUse | None:
        """The sums over what it was broadcast to."""
        return _use(node, shape)


class Repetition(Operation):
    """``x.repeat(…)``, where it does what ``expand`` does."""

    nodes: ClassVar[tuple[str, ...]] = ("RepeatBackward0",)

    def use(self, node: Any, position: int, shape: Sequence[int]) -> TensorUse | None:
        """The sums over the repetitions; none where it is tiled."""
        repeats = node._saved_repeats
        sizes = [1] * (len(repeats) - len(shape)) + list(shape)
        tiled = any(size > 1 and r > 1 for size, r in zip(sizes, repeats, strict=True))
        return None if tiled else _use(node, shape)


ELEMENTWISE: tuple[Operation, ...] = (
    Addition(),
    Multiplication(),
    Division(),
    Selection(),
    Expansion(),
    Repetition(),
)
