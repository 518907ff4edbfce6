"""Whatever is raised in a step: nothing has changed, and the next step gives the right answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import jdframework as jd
from jdframework.autograd.rollback import StateRollback
from jdframework.bases import BaseMethod
from jdframework.protocols.names import Kind

from .subjects import (
    ENGINES,
    METHODS,
    grads_of,
    losses_of,
    method_of,
    model,
    same,
    snapshot,
    step,
)

Fault = Callable[[nn.Sequential, jd.Descent], contextlib.AbstractContextManager[object]]


class OutOfMemory(TorchDispatchMode):
    """Every operation from the ``first`` one on that allocates finds no memory."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.left = first

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.left -= not storages(result) <= storages((args, kwargs))
        if self.left < 0:
            raise torch.OutOfMemoryError("simulated: out of memory")
        return result


def storages(tree: Any) -> set[int]:
    return {t.untyped_storage()._cdata for t in tree_leaves(tree) if isinstance(t, Tensor)}


@contextlib.contextmanager
def failing_solver(network: nn.Sequential, descent: jd.Descent) -> Iterator[None]:
    """The method raises at the end, when it has already changed its state."""

    def fail(*_: object) -> None:
        raise jd.SolverError("no solver is left")

    inner = [m for m in descent.method.modules() if isinstance(m, BaseMethod)][-1]
    with inner.register_forward_hook(fail):
        yield


@contextlib.contextmanager
def failing_hook(network: nn.Sequential, descent: jd.Descent) -> Iterator[None]:
    """A hook of the user on a gradient raises, halfway through the backward pass."""

    def fail(*_: object) -> None:
        raise KeyError("a hook of the user")

    def on_output(layer: nn.Module, given: object, output: Tensor) -> None:
        output.register_hook(fail)

    with network[1].register_forward_hook(on_output):
        yield


def no_memory_at(first: int) -> Fault:
    def fault(network: nn.Sequential, descent: jd.Descent) -> OutOfMemory:
        return OutOfMemory(first)

    fault.__name__ = f"no_memory_for_allocation_{first}"
    return fault


@contextlib.contextmanager
def interrupted(network: nn.Sequential, descent: jd.Descent) -> Iterator[None]:
    """Control-C in the middle of the method."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with descent.method.register_forward_hook(interrupt):
        yield


def check(descent: jd.Descent, control: jd.Descent, networks: Any, fault: Fault) -> None:
    """A good step, one that fails, and another good one, beside a control without the second."""
    network, untroubled = networks
    for trained, method in ((network, descent), (untroubled, control)):
        step(method, lambda number, trained=trained: losses_of(trained, number), 0)
        method.after_update(losses_of(trained))
    state, grads = snapshot(descent), grads_of(network, descent.method)
    try:
        with fault(network, descent):
            step(descent, lambda number: losses_of(network, number), 1)
    except (jd.SolverError, KeyError, torch.OutOfMemoryError, KeyboardInterrupt):
        assert same(snapshot(descent), state)
        assert same(grads_of(network, descent.method), grads)
    else:
        pytest.fail("the step did not fail")
    step(descent, lambda number: losses_of(network, number), 2)
    step(control, lambda number: losses_of(untroubled, number), 2)
    assert same(grads_of(network), grads_of(untroubled))
    assert same(snapshot(descent), snapshot(control))


@pytest.mark.parametrize("fault", [failing_solver, failing_hook, no_memory_at(12)])
@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_every_method_goes_on_as_if_the_step_had_not_been(
    kind: Kind, name: str, fault: Fault
) -> None:
    networks = model(), model()
    descent, control = (jd.Descent(network, method_of(kind, name)) for network in networks)
    check(descent, control, networks, fault)


@pytest.mark.filterwarnings("ignore:chunked .* and goes on")
@pytest.mark.parametrize("where", [1, 5, 20, 40])
@pytest.mark.parametrize("engine", ENGINES)
def test_memory_may_run_out_anywhere_in_every_engine(engine: str, where: int) -> None:
    networks = model(), model()
    descent, control = (jd.Descent(network, "upgrad", engine=engine) for network in networks)
    check(descent, control, networks, no_memory_at(where))


@pytest.mark.parametrize("engine", ENGINES)
def test_control_c_leaves_nothing_half_done(engine: str) -> None:
    networks = model(), model()
    descent, control = (
        jd.Descent(network, method_of("weighting", "gradvac"), engine=engine)
        for network in networks
    )
    check(descent, control, networks, interrupted)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_exception_in_the_forward_pass_leaves_nothing_behind(engine: str) -> None:
    networks = model(), model()
    descent, control = (jd.Descent(network, "upgrad", engine=engine) for network in networks)

    def fail(*_: object) -> None:
        raise KeyError("a layer of the user")

    with networks[0][2].register_forward_pre_hook(fail), pytest.raises(KeyError):
        descent.backward(losses_of(networks[0]))
    for network, method in zip(networks, (descent, control), strict=True):
        method.backward(losses_of(network))
    assert same(*map(grads_of, networks))
    descent.close()
    hooks = [layer._forward_hooks | layer._forward_pre_hooks for layer in networks[0].modules()]
    assert not any(hooks)


class Copies(TorchDispatchMode):
    """Notes what is copied, by its address."""

    def __init__(self) -> None:
        super().__init__()
        self.of: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.clone.default:
            self.of.add(args[0].data_ptr())
        return func(*args, **(kwargs or {}))


def test_a_large_state_is_undone_without_a_copy() -> None:
    aggregator = method_of("aggregator", "moco")
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    aggregator(rows)
    before = aggregator.tracked.data_ptr()
    with contextlib.suppress(KeyError), Copies() as copies, StateRollback(aggregator):
        assert before not in copies.of
        aggregator(2 * rows)
        assert aggregator.tracked.data_ptr() != before
        raise KeyError
    assert aggregator.tracked.data_ptr() == before
