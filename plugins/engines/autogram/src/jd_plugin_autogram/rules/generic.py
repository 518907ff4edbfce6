"""Any layer: the rows by differentiating the layer's own forward pass once more."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.utils import _pytree as pytree

from jdframework.errors import UnsupportedModelError

from jd_plugin_autogram.factors import by_objective
from jd_plugin_autogram.layout import Layout
from jd_plugin_autogram.recording import Call
from jd_plugin_autogram.rules.base import NotRepeatableError, Rule, Use

_Rows = dict[str, Tensor]
_TOLERANCE: Final = {torch.float32: 1e-4, torch.float64: 1e-10}
_HALF_TOLERANCE: Final = 0.1


class Generic(Rule):
    """Runs the layer again, instance by instance, and differentiates that.

    Whether the rows add up to what the whole batch gives is seen every time; if not, they are found
    on the whole batch, an objective at a time.
    """

    layers: ClassVar[tuple[type[nn.Module], ...]] = ()
    reruns: ClassVar[bool] = True

    def rows(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Tensor]:
        """One vector-Jacobian product of the layer per objective."""
        names = {id(p): name for name, p in use.layer.named_parameters()}
        values = {names[id(p)]: p.detach() for p in wanted}
        try:
            blocks = _rows(use, values)
        except NotRepeatableError:
            raise
        except RuntimeError as error:
            raise UnsupportedModelError(
                f"the layer {type(use.layer).__name__} has no rule, and cannot be run again one "
                f"instance at a time ({str(error).splitlines()[0]}): use engine='autojac'"
            ) from error
        return [blocks[names[id(p)]] for p in wanted]

    def instance_dims(self, layer: Any, shape: Sequence[int]) -> Iterable[int]:
        """Any."""
        return range(len(shape))

    def serves(self, call: Call) -> bool:
        """Not if the call cannot be repeated, nor if it was given nothing that has instances."""
        return bool(call.tensors) and call.repeatable and not call.state_changed


def _rows(use: Use, values: _Rows) -> _Rows:
    """``[n·k, *shape]`` per parameter."""
    outputs, back = vjp(_outputs(use, use.inputs, use.kwargs), values)[:2]
    _check_repeated(outputs, use)

    def of_batch(*gradients: Tensor) -> _Rows:
        rows: _Rows = back(list(gradients))[0]
        return rows

    if all(layout.n == 1 for layout in use.layouts if layout is not None):
        return _mapped(of_batch, [g for g in use.gradients if g is not None])
    found = _per_instance(use, values)
    # What instances share may be as long as the batch is this time, and a layer may mix them.
    return found if _adds_up(found, of_batch, use) else _one_by_one(of_batch, use)


def _check_repeated(outputs: Sequence[Tensor], use: Use) -> None:
    """Refuses a layer that has state which is not seen, such as a number outside of it.

    :raises NotRepeatableError: if it gives something else than in its call.
    """
    if not use.outputs:
        return
    wanted = [t for t, g in zip(use.outputs, use.gradients, strict=True) if g is not None]
    for output, recorded in zip(outputs, wanted, strict=True):
        low = min(output.dtype, recorded.dtype, key=lambda dtype: torch.finfo(dtype).bits)
        expected = recorded.to(torch.promote_types(output.dtype, torch.float32))
        error = (output.detach().to(expected.dtype) - expected).norm()
        if bool(error > _TOLERANCE.get(low, _HALF_TOLERANCE) * expected.norm()):
            raise NotRepeatableError(
                f"the layer {type(use.layer).__name__} gives something else when it is run again: "
                f"keep its state in buffers, or use engine='autojac'"
            )


def _per_instance(use: Use, values: _Rows) -> _Rows:
    """The rows by running the layer on each instance alone."""
    arguments, structure = pytree.tree_flatten((use.inputs, use.kwargs))
    batched = {i: s for i, a in enumerate(arguments) if (s := _by_instance(use, a)) is not None}
    given = [
        by_objective(layout.split(gradient, 1))
        for gradient, layout in zip(use.gradients, use.layouts, strict=True)
        if gradient is not None and layout is not None
    ]

    def of_objective(*tensors: Tensor) -> _Rows:
        instance = list(arguments)
        for i, tensor in zip(batched, tensors, strict=False):
            instance[i] = tensor
        inputs, kwargs = pytree.tree_unflatten(instance, structure)
        back = vjp(_outputs(use, inputs, kwargs), values)[1]
        rows: _Rows = back(list(tensors[len(batched) :]))[0]
        return rows

    # One level of vmap only: torch's rules for some layers (PReLU) mix up two of them.
    k = len(given[0]) // len(next(iter(batched.values()), given[0]))
    repeated = [tensor.repeat_interleave(k, 0) for tensor in batched.values()]
    return _mapped(of_objective, [*repeated, *given])


def _adds_up(found: _Rows, of_batch: Callable[..., _Rows], use: Use) -> bool:
    """Whether a weighted sum of the rows is what the whole batch gives; or nothing is finite."""
    m = len(next(iter(found.values())))
    generator = torch.Generator("cpu").manual_seed(0)
    u = 0.5 + torch.rand(m, generator=generator, dtype=torch.float32, device="cpu")
    expected = of_batch(*(gradient.sum(0) for gradient in _weighted(use, u)))
    for name, rows in found.items():
        flat = rows.reshape(m, -1)
        error = (u.to(flat) @ flat - expected[name].flatten()).norm()
        allowed = _TOLERANCE.get(rows.dtype, _HALF_TOLERANCE) * flat.norm()
        if bool(error > allowed):
            return False
    return True


def _one_by_one(of_batch: Callable[..., _Rows], use: Use) -> _Rows:
    """The rows by differentiating the whole batch's outputs, those of an instance at a time."""
    layout = next(layout for layout in use.layouts if layout is not None)
    k = next(len(gradient) for gradient in use.gradients if gradient is not None)
    rows = []
    for unit in torch.eye(layout.n, dtype=torch.float64, device="cpu"):
        chosen = _weighted(use, unit.repeat_interleave(k))
        rows += [of_batch(*(gradient[a] for gradient in chosen)) for a in range(k)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _weighted(use: Use, weights: Tensor) -> list[Tensor]:
    """The outputs' gradients ``[k, *shape]``, each objective's share times its weight ``[m]``."""
    found = []
    for gradient, layout in zip(use.gradients, use.layouts, strict=True):
        if gradient is not None and layout is not None:
            size, after = gradient.shape[layout.dim + 1], gradient.ndim - layout.dim - 2
            places = (
                Layout(layout.n, 0, layout.minor)
                .split(torch.arange(size, device=gradient.device))
                .flatten(1)
            )
            factors = gradient.new_empty((len(gradient), size))
            by_instance = weights.to(gradient).reshape(layout.n, -1).T
            factors[:, places] = by_instance.unsqueeze(2).expand(-1, -1, places.shape[1])
            shape = len(gradient), *(1,) * layout.dim, size, *(1,) * after
            found.append(gradient * factors.reshape(shape))
    return found


def _by_instance(use: Use, argument: Any) -> Tensor | None:
    """``[n, *shape]``; None if all instances share the argument."""
    if not isinstance(argument, Tensor):
        return None
    pairs = zip(use.gradients, use.layouts, strict=True)
    gradient, layout = next((g, x) for g, x in pairs if g is not None and x is not None)
    size = gradient.shape[layout.dim + 1]
    fits = argument.ndim > layout.dim and argument.shape[layout.dim] == size
    return layout.split(argument) if fits else None


def _outputs(
    use: Use, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[_Rows], list[Tensor]]:
    """The layer as a function of its parameters; its buffers are copies, which it may change."""
    buffers = {name: buffer.clone() for name, buffer in use.layer.named_buffers()}

    def outputs(parameters: _Rows) -> list[Tensor]:
        found = functional_call(use.layer, buffers | parameters, inputs, kwargs)
        tensors = [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor)]
        return [t for t, g in zip(tensors, use.gradients, strict=True) if g is not None]

    return outputs


def _mapped(product: Callable[..., _Rows], given: Sequence[Tensor]) -> _Rows:
    if len(given[0]) == 1:
        return {name: row.unsqueeze(0) for name, row in product(*(t[0] for t in given)).items()}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            mapped: _Rows = vmap(product)(*given)
    except (RuntimeError, NotImplementedError):
        rows = [product(*(tensor[i] for tensor in given)) for i in range(len(given[0]))]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return mapped
