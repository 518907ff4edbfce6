"""A Jacobian that is held as a whole, and what follows from its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from jdframework import linalg
from jdframework.linearization.blocks import Gradients, as_reals
from jdframework.linearization.protocol import Linearization


class JacobianRows(Linearization):
    """A Jacobian that is held as a whole, one block per input.

    :param inputs: What its columns belong to.
    :param blocks: ``[m, *input.shape]`` each, None where no objective depends on the input.
    :param groups: Positions of inputs; one group of all when None.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        blocks: Sequence[Float[Tensor, "m *shape"] | None],
        groups: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.inputs = inputs
        self.groups = [range(len(inputs))] if groups is None else groups
        self._blocks: tuple[Tensor | None, ...] | None = tuple(blocks)

    def jacobian(self) -> tuple[Float[Tensor, "m *shape"] | None, ...]:
        """See :meth:`Linearization.jacobian`."""
        assert self._blocks is not None
        return self._blocks

    def blocks(self) -> Iterator[tuple[int, Float[Tensor, "m *shape"]]]:
        """See :meth:`Linearization.blocks`."""
        for position, block in enumerate(self.jacobian()):
            if block is not None:
                yield position, block

    def close(self) -> None:
        """Lets go of the rows."""
        self._blocks = None

    def gramians(self) -> list[Float[Tensor, "m m"] | None]:
        """See :meth:`Linearization.gramians`."""
        blocks = [None if block is None else as_reals(block) for block in self.jacobian()]
        found = ([b for i in group if (b := blocks[i]) is not None] for group in self.groups)
        return [linalg.gramian(own) if own else None for own in found]

    def vjp(self, weights: Sequence[Float[Tensor, " m"] | None]) -> Gradients:
        """See :meth:`Linearization.vjp`."""
        blocks = self.jacobian()
        tensors: list[Tensor] = []
        gradients: list[Tensor | None] = []
        for group, own in zip(self.groups, weights, strict=True):
            if own is not None:
                used = [(i, block) for i in group if (block := blocks[i]) is not None]
                tensors += [self.inputs[i] for i, _ in used]
                gradients += linalg.weighted_sum([block for _, block in used], own)
        return tensors, gradients
