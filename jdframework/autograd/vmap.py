"""Runs several backward passes as one by ``torch.vmap``, and warns where that cannot be."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import GradientEdge

from jdframework import hooks
from jdframework.autograd.leaf_hooks import without_leaf_hooks
from jdframework.autograd.sparse import dense


def batched_gradients(
    outputs: Sequence[Tensor | GradientEdge],
    inputs: Sequence[Tensor],
    starts: Sequence[Float[Tensor, "m *output"]],
    retain_graph: bool,
) -> tuple[Float[Tensor, "m *input"], ...]:
    """``m`` vector-Jacobian products at once, ``[m, *input.shape]`` per input.

    :param outputs: What is differentiated.
    :param inputs: With respect to what; zeros where no output depends on one.
    :param starts: What each pass starts from, ``[m, *output.shape]`` per output.
    :param retain_graph: Whether the graph can be used again.
    :raises RuntimeError: or ``NotImplementedError``, if vmap cannot run on the graph.
    """

    def product(*start: Tensor) -> tuple[Tensor, ...]:
        # torch's own annotation has no sequences of both
        ends: Any = outputs
        found = torch.autograd.grad(
            ends,
            inputs,
            start,
            retain_graph=retain_graph,
            allow_unused=True,
            materialize_grads=True,
        )
        return tuple(dense(gradient) for gradient in found)

    with without_leaf_hooks(inputs):
        result: tuple[Tensor, ...] = torch.vmap(product)(*starts)
    return result


def tell_fallback(engine: str, why: str | Exception) -> None:
    """Warns, and calls ``jd_fallback``: the engine takes one objective at a time.

    :param engine: Its name.
    :param why: What stops vmap.
    """
    if isinstance(why, Exception):
        why = str(why).strip().partition("\n")[0] or type(why).__name__
    reason = f"torch.vmap cannot run on this graph ({why})"
    warnings.warn(
        f"{engine} differentiates one objective at a time: {reason}; parallel_chunk_size=1 asks "
        f"for that from the start",
        stacklevel=2,
    )
    hooks.call("jd_fallback", name=engine, reason=reason)
