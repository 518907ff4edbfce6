"""Two thousand steps of training with faults injected at random, beside a run without them.

In the second run the faulty steps are left out, and nothing goes wrong. At the end the parameters,
the method's state and the optimizer's state of both are to be the same in every bit. Each line is a
method on an engine; the figures are how often each fault struck, and the greatest difference.

Faults are a loss that is NaN, a gradient that is NaN where the loss is finite, a solver that fails
when the method has already changed its state, no memory from a random operation on, an exception
in the forward pass, and one in a hook of the user in the middle of the backward pass. An observer
that raises costs no step.
"""

from __future__ import annotations

import contextlib
import math
import random
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from reporting import arguments, progress, show, write
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import jdframework as jd
from jdframework.bases import BaseMethod

_STEPS: Final = 2000
_EPOCH: Final = 100
_SHARE: Final = 0.2
"""Of steps in which something goes wrong."""
_CASES: Final[tuple[tuple[str, str | None, dict[str, Any]], ...]] = (
    ("gradvac", "chunked", {"seed": 0}),
    ("moco", "autojac", {}),
    ("nash-mtl", "autogram", {"update_weights_every": 3}),
    ("famo", None, {"shape": 4}),
)
"""Methods that remember earlier steps, and engines."""
FAULTS: Final = (
    "NaN loss",
    "NaN gradient",
    "failing solver",
    "out of memory",
    "exception in forward",
    "exception in a hook",
    "raising observer",
)


class InjectedError(Exception):
    """What user code that fails raises here."""


class _OutOfMemory(TorchDispatchMode):
    """Every operation from the ``first`` one on that allocates finds no memory."""

    def __init__(self, first: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._left = first
        self.struck = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if _storages(result) <= _storages((args, kwargs)):
            return result
        self._left -= 1
        if self._left < 0:
            self.struck = True
            raise torch.OutOfMemoryError("simulated: out of memory")
        return result


def _storages(tree: Any) -> set[int]:
    return {t.untyped_storage()._cdata for t in tree_leaves(tree) if isinstance(t, Tensor)}


def _raise(*_: object) -> None:
    raise InjectedError("user code that fails")


def _hook_output(layer: nn.Module, given: object, output: Tensor) -> None:
    output.register_hook(_raise)


class _Observer:
    """Raises when it is told to."""

    raises = False

    @jd.hooks.hookimpl
    def jd_step(self, step: jd.Step) -> None:
        if self.raises:
            raise InjectedError("an observer that fails")


@dataclass
class Run:
    """A training loop as a user writes it, which goes on after whatever fails."""

    method: str
    engine: str | None
    config: Mapping[str, Any]
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Makes the same model, method and optimizer each time."""
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
        self.descent = jd.Descent(
            self.model,
            self.method,
            engine=self.engine or "auto",
            on_nonfinite="skip",
            **self.config,
        )
        parameters = [*self.model.parameters(), *self.descent.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def step(self, number: int, fault: str | None = None, place: int = 0) -> bool:
        """One step of the loop; whether the parameters were updated.

        :param number: Which batch.
        :param fault: What goes wrong.
        :param place: In which operation, where it is the memory.
        """
        if fault is not None and fault != "out of memory":
            self._count(fault, struck=True)
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(number))
        try:
            with self._in_forward(fault):
                losses = self._spoiled((self.model(x) - 1.0).square().mean(0), fault)
            with self._in_backward(fault, place):
                done = self.descent.backward(losses)
        except (InjectedError, jd.SolverError, torch.OutOfMemoryError):
            return False
        if done.skipped:
            return False
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.descent.after_update((self.model(x) - 1.0).square().mean(0))
        return True

    def state(self) -> dict[str, Any]:
        """Everything that training has changed."""
        return {
            "model": self.model.state_dict(),
            "method": self.descent.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _count(self, fault: str, struck: bool) -> None:
        self.counts[fault] += struck

    def _spoiled(self, losses: Tensor, fault: str | None) -> Tensor:
        if fault == "NaN loss":
            return losses * torch.tensor([1.0, 1.0, math.nan, 1.0])
        if fault == "NaN gradient":
            return losses + (0 * losses).sqrt()
        return losses

    def _in_forward(self, fault: str | None) -> contextlib.AbstractContextManager[object]:
        if fault == "exception in forward":
            return self.model[2].register_forward_pre_hook(_raise)
        if fault == "exception in a hook":
            return self.model[1].register_forward_hook(_hook_output)
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def _in_backward(self, fault: str | None, place: int) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if fault == "failing solver":
                inner = [m for m in self.descent.method.modules() if isinstance(m, BaseMethod)][-1]
                stack.enter_context(inner.register_forward_hook(_no_solver))
            if fault == "out of memory":
                memory = stack.enter_context(_OutOfMemory(place))
                stack.callback(lambda: self._count(fault, memory.struck))
            yield


def _no_solver(*_: object) -> None:
    raise jd.SolverError("simulated: every solver failed")


def soak(method: str, engine: str | None, config: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Both runs of one case; how often each fault struck, and how far the ends are apart."""
    chance = random.Random(f"{method} {engine}")  # noqa: S311  # faults are no secret
    faulty, untroubled = Run(method, engine, config), Run(method, engine, config)
    observer, updates = _Observer(), 0
    jd.hooks.register(observer, name=f"observer of {method}")
    try:
        for number in range(steps):
            fault = chance.choice(FAULTS) if chance.random() < _SHARE else None
            observer.raises = fault == "raising observer"
            updated = faulty.step(number, fault, chance.randrange(40))
            observer.raises = False
            if updated:
                updates += untroubled.step(number)
            if number % _EPOCH == _EPOCH - 1:
                faulty.descent.end_epoch()
                untroubled.descent.end_epoch()
    finally:
        jd.hooks.unregister(observer)
    return {
        "method": method,
        "engine": engine or "autograd",
        "steps": steps,
        "updates": updates,
        "faults": {fault: faulty.counts[fault] for fault in FAULTS},
        "distance": distance(faulty.state(), untroubled.state()),
    }


def distance(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """The greatest difference of two states: 0 only if they are the same in every bit."""
    flat, other = dict(_leaves(first)), dict(_leaves(second))
    if flat.keys() != other.keys():
        return math.inf
    return max((_difference(flat[path], other[path]) for path in flat), default=0.0)


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _leaves(value, f"{path}.{key}")
    else:
        yield path, tree


def _difference(first: Any, second: Any) -> float:
    if not isinstance(first, Tensor):
        return 0.0 if first == second else math.inf
    if first.dtype != second.dtype or first.shape != second.shape:
        return math.inf
    if first.numpy().tobytes() == second.numpy().tobytes():
        return 0.0
    return float((first.double() - second.double()).abs().max()) or math.ulp(0.0)


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """The soak in one line."""
    struck = sum((Counter(row["faults"]) for row in rows), Counter[str]())
    each = ", ".join(f"{struck[fault]} x {fault}" for fault in FAULTS)
    return (
        f"{sum(row['steps'] for row in rows)} steps of {len(rows)} methods, "
        f"{struck.total()} faults ({each}), greatest difference in the end: "
        f"{max(row['distance'] for row in rows):g}"
    )


def main() -> None:
    """Runs every case, prints, and writes JSON."""
    given = arguments(__doc__)
    steps = 300 if given.quick else _STEPS
    rows = []
    with progress(len(_CASES)) as advance, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of observers that fail, and of memory that ran out
        for method, engine, config in _CASES:
            advance(f"{method} on {engine or 'autograd'}")
            rows.append(soak(method, engine, config, steps))
    show("Soak", [{key: _text(value) for key, value in row.items()} for row in rows])
    print(summary(rows))
    print(f"wrote {write('soak', given, rows)}")


def _text(value: Any) -> str:
    return str(sum(value.values())) if isinstance(value, dict) else str(value)


if __name__ == "__main__":
    main()
