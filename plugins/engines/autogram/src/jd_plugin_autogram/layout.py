"""Where the instances lie in a layer's tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

_TOLERANCE: Final = {torch.float64: (1e-2, 1e-6), torch.float32: (1e-2, 1e-4)}
"""Of an entry's error, relative to the entry, and to the largest one: where gradients cancel out,
as in attention that is nearly even, rounding is that large."""
_HALF_TOLERANCE: Final = 0.1


@dataclass(frozen=True)
class Layout:
    """``n`` instances along one dimension of a tensor, whose size is a multiple of ``n``.

    With ``n = 1``, the whole tensor is one instance: so it is for objectives that each depend on
    the whole batch.
    """

    n: int
    dim: int = 0
    minor: bool = False
    """Whether the instance is the faster index along the dimension, as in ``[time · batch, …]``."""

    def split(self, tensor: Tensor, leading: int = 0) -> Tensor:
        """``[…, n, *shape]``, where the dimension keeps what is left of its size.

        :param tensor: ``[…, *shape]``.
        :param leading: How many dimensions come before the shape.
        """
        if self.n == 1:
            return tensor.unsqueeze(leading)
        dim = self.dim + leading
        if self.dim == 0 and tensor.shape[dim] == self.n:
            return tensor.unsqueeze(dim + 1)
        rest = tensor.shape[dim] // self.n
        sizes = (rest, self.n) if self.minor else (self.n, rest)
        split: Tensor = tensor.unflatten(dim, sizes)
        return split.movedim(dim + int(self.minor), leading)


def candidates(shape: Sequence[int], n: int, dims: Iterable[int]) -> Iterator[Layout]:
    """The ways in which ``n`` instances may lie in a tensor.

    :param shape: The tensor's.
    :param n: How many instances there are.
    :param dims: The dimensions along which they may lie, the likeliest first.
    """
    if n == 1:
        yield Layout(1)
        return
    for dim in dims:
        if shape[dim] and shape[dim] % n == 0:
            yield Layout(n, dim)
            if shape[dim] > n:
                yield Layout(n, dim, minor=True)


def agrees(layout: Layout, plain: Tensor, scaled: Tensor, factors: Float[Tensor, " n"]) -> bool:
    """Whether scaling the loss of instance i by ``factors[i]`` scales just its own gradient.

    :param layout: Where the instances are supposed to lie.
    :param plain: The gradient of the sum of the losses.
    :param scaled: That of the sum of the scaled losses.
    :param factors: No two of them alike.
    """
    rows = layout.split(plain).reshape(layout.n, -1).double()
    expected = rows * factors.double().unsqueeze(1)
    errors = (layout.split(scaled).reshape(layout.n, -1).double() - expected).abs()
    # Of each entry alone: a few that lie otherwise than the rest hardly count in a row's norm.
    sizes = expected.abs()
    relative, absolute = _TOLERANCE.get(plain.dtype, (_HALF_TOLERANCE, _HALF_TOLERANCE))
    allowed = relative * sizes + absolute * (sizes.max() if sizes.numel() else 0.0)
    # Gradients that vanish over many steps of a recurrence end where numbers lose their digits.
    if plain.dtype != torch.float16:
        allowed = allowed + torch.finfo(plain.dtype).tiny
    return bool((errors <= allowed).all()) or not bool(torch.isfinite(errors).all())
