"""Any layer: the rows by differentiating the layer's own forward pass once more."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.utils import _pytree as pytree

from jd_plugin_autogram.rules.base import Rule, Use


class Generic(Rule):
    """Runs the layer again, instance by instance or once for all tasks, and differentiates that."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = ()

    def rows(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Tensor]:
        """One vector-Jacobian product of the layer per objective."""
        names = {id(p): name for name, p in use.layer.named_parameters()}
        values = {names[id(p)]: p.detach() for p in wanted}
        given = [gradient for gradient in use.gradients if gradient is not None]
        found = _shared(use, values, given) if use.shared else _apart(use, values, given)
        return [found[names[id(p)]] for p in wanted]

    def refusal(self, layer: Any) -> str | None:
        """A layer that draws random numbers would draw others when it is run again."""
        if layer.training and any(_is_random(inner) for inner in layer.modules()):
            return "it draws random numbers, which cannot be drawn again; set its dropout to 0"
        return None


def _shared(use: Use, values: dict[str, Tensor], given: list[Tensor]) -> dict[str, Tensor]:
    """One pass for the batch that all objectives share, and a product for each of them."""
    back = vjp(_outputs(use, use.inputs, use.kwargs), values)[1]
    return _mapped(lambda *gradients: back(list(gradients))[0], given)


def _apart(use: Use, values: dict[str, Tensor], given: list[Tensor]) -> dict[str, Tensor]:
    """One pass for each instance."""
    arguments, structure = pytree.tree_flatten((use.inputs, use.kwargs))
    batched = [i for i, argument in enumerate(arguments) if isinstance(argument, Tensor)]

    def product(*tensors: Tensor) -> dict[str, Tensor]:
        instance = list(arguments)
        for i, tensor in zip(batched, tensors, strict=False):
            instance[i] = tensor.unsqueeze(0)
        inputs, kwargs = pytree.tree_unflatten(instance, structure)
        back = vjp(_outputs(use, inputs, kwargs), values)[1]
        result: dict[str, Tensor] = back([g.unsqueeze(0) for g in tensors[len(batched) :]])[0]
        return result

    return _mapped(product, [*(arguments[i] for i in batched), *given])


def _outputs(
    use: Use, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[dict[str, Tensor]], list[Tensor]]:
    """The layer as a function of its parameters; its buffers are copies, which it may change."""
    buffers = {name: buffer.clone() for name, buffer in use.layer.named_buffers()}

    def outputs(parameters: dict[str, Tensor]) -> list[Tensor]:
        found = functional_call(use.layer, buffers | parameters, inputs, kwargs)
        tensors = [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor)]
        return [t for t, g in zip(tensors, use.gradients, strict=True) if g is not None]

    return outputs


def _mapped(product: Callable[..., dict[str, Tensor]], given: list[Tensor]) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            mapped: dict[str, Tensor] = vmap(product)(*given)
    except RuntimeError:
        rows = [product(*(tensor[i] for tensor in given)) for i in range(len(given[0]))]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return mapped


def _is_random(layer: nn.Module) -> bool:
    rate = layer.p if "Dropout" in type(layer).__name__ else getattr(layer, "dropout", 0.0)
    return isinstance(rate, float | int) and rate > 0
