"""What an operation's rule is given, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from jd_plugin_autogram.factors import Factors, Rows, accumulated_in, by_objective
from jd_plugin_autogram.layout import Layout


@dataclass(frozen=True)
class TensorUse:
    """How one operation uses one of its inputs, which all instances share."""

    dims: tuple[int, ...]
    """Along which dimensions of the output instances may lie."""
    make: Callable[[Tensor, Tensor, Layout, bool], Factors]
    """From the shared tensor, of which only shape and dtype count, the output's gradient
    ``[k, *shape]``, its layout, and whether the given tensor is the transpose of what enters the
    node, the factors of the given tensor's rows."""
    transposable: bool = False
    """Whether the transpose may be given."""
    inputs: int | None = None
    """``d`` of a product of two matrices; None if it is none."""


class Operation(ABC):
    """The rule of some operations, by the names of autograd's nodes. Stateless."""

    nodes: ClassVar[tuple[str, ...]]
    """The names, such as ``MulBackward0``."""

    @abstractmethod
    def use(self, node: Any, position: int, shape: Sequence[int]) -> TensorUse | None:
        """How the node uses an input; None if this rule is not exact for it.

        What the node has saved is read now: after the backward pass it may be gone.

        :param node: Of autograd.
        :param position: The input's, among the node's ``next_functions``.
        :param shape: The input's.
        """


def summed(
    target: Tensor, gradient: Float[Tensor, "k *shape"], layout: Layout, shape: Sequence[int]
) -> Rows:
    """The rows of a tensor that was broadcast: the gradient's sums over what it was broadcast to.

    :param target: The tensor.
    :param gradient: That of the output, ``[k, *shape]``.
    :param layout: Where the instances lie in it.
    :param shape: The tensor's.
    """
    return Rows(target, sum_over_broadcast(shape, gradient, layout))


def sum_over_broadcast(
    shape: Sequence[int], gradient: Float[Tensor, "k *out"], layout: Layout
) -> Float[Tensor, "m *shape"]:
    """The gradient of what was broadcast: the sum over all that it was broadcast to.

    :param shape: That of what was broadcast.
    :param gradient: That of the output, for each of ``k`` losses of an instance.
    :param layout: Where the instances lie in it.
    """
    split = layout.split(gradient, 1)
    extra = split.ndim - 2 - len(shape)
    wide = accumulated_in(split)
    sums = split.sum(tuple(range(2, 2 + extra)), dtype=wide) if extra else split
    kept = tuple(d + 2 for d, size in enumerate(shape) if size == 1 and sums.shape[d + 2] != 1)
    return by_objective(sums.sum(kept, keepdim=True, dtype=wide) if kept else sums)


def broadcast_dims(shape: Sequence[int], output: Sequence[int]) -> tuple[int, ...]:
    """The dimensions of the output along which a tensor was broadcast.

    :param shape: The tensor's.
    :param output: The output's.
    """
    extra = len(output) - len(shape)
    return tuple(d for d in range(len(output)) if d < extra or shape[d - extra] == 1)


def output_shape(node: Any, output: int = 0) -> tuple[int, ...]:
    """The shape of what a node has put out."""
    return tuple(node._input_metadata[output].shape)
