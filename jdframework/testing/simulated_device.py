"""A simulated accelerator, for machines that have none: what waits for it is counted.

Its tensors say that they are on ``meta``, a device that torch has everywhere, and hold their
numbers on the CPU. As with a real one, they do not mix with the CPU's, and reading a number, or
copying to the host, waits for all the work that was submitted: an accelerated step must not do that
often.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
WAITING = (
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "linalg_eigh",
    "masked_select",
    "nonzero",
    "unique",
)
"""What cannot go on before the device has answered."""


_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__)


class SimulatedTensor(Tensor):
    """A tensor that says it is elsewhere."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> SimulatedTensor:
        """One that holds ``held``."""
        made: SimulatedTensor = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            dtype=held.dtype,
            device=DEVICE,
            requires_grad=held.requires_grad,
        )
        made.held = held.detach()
        return made

    @property
    def data(self) -> Any:
        """The same tensor without its graph."""
        return SimulatedTensor(self.held)

    @data.setter
    def data(self, other: Any) -> None:
        """Takes another's numbers and shape, as a parameter does whose shape the losses tell."""
        torch.Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.held = other.held

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # torch changes the shape of a product in place, of which the tensor here would not know.
        if function in _PRODUCTS:
            return rewrapped(function(*tree_map(unwrapped, args)), [])
        return torch._C._disabled_torch_function_impl(function, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub leaves out the class
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(function, args, kwargs or {}, Counter())

    def __repr__(self) -> str:  # type: ignore[override]  # torch's takes one more argument
        return f"SimulatedTensor({self.held})"


class MixedDevicesError(RuntimeError):
    """Tensors of the host and of the device met in one operation."""


class Accelerator(TorchDispatchMode):
    """While it is entered there is such a device; ``waits`` says what waited for it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(function, args, kwargs or {}, self.waits)


def run(function: Any, args: Any, kwargs: dict[str, Any], waits: Counter[str]) -> Any:
    """One operation, on the device if an argument or the wanted result is there."""
    leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    there = any(isinstance(leaf, SimulatedTensor) for leaf in leaves)
    wanted = kwargs.get("device")
    target = None if wanted is None else torch.device(wanted).type
    name = function.overloadpacket.__name__
    if there and name != "_to_copy":
        check_same_device(name, leaves)
    if there and (any(word in name for word in WAITING) or (target == "cpu")):
        waits[name] += 1
    if target is not None:
        kwargs = {**kwargs, "device": "cpu"}
    result = function(*tree_map(unwrapped, args), **tree_map(unwrapped, kwargs))
    if target == "cpu" or not (there or target == DEVICE.type):
        return result
    return tree_map(lambda leaf: rewrapped(leaf, leaves), result)


def check_same_device(name: str, leaves: list[Tensor]) -> None:
    """As torch does: only scalars may come from the host."""
    others = any(not isinstance(leaf, SimulatedTensor) and leaf.ndim > 0 for leaf in leaves)
    if others and name != "copy_":
        raise MixedDevicesError(f"{name}: expected all tensors to be on the same device")


def unwrapped(leaf: Any) -> Any:
    """What it holds, if it is simulated."""
    return leaf.held if isinstance(leaf, SimulatedTensor) else leaf


def rewrapped(leaf: Any, given: list[Tensor]) -> Any:
    """The result; an operation in place gives back the tensor that it was given."""
    if not isinstance(leaf, Tensor):
        return leaf
    for tensor in given:
        if unwrapped(tensor) is leaf:
            return tensor
    return SimulatedTensor(leaf)


def there(tensor: Tensor) -> SimulatedTensor:
    """A copy of ``tensor`` on the device."""
    return SimulatedTensor(tensor.detach().clone())
