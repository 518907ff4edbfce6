"""Where memory runs out, the step goes on with less at once, or fails and changes nothing."""

from __future__ import annotations

import gc
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.bases import JacobianWeighting

from jd_plugin_chunked import Chunked
from jd_plugin_chunked.out_of_memory import OutOfMemory, attempt, is_out_of_memory

from .limited import Limited
from .subjects import METHODS, Drawing, OneByOne, joined, method

M = 8
ROW = 8 * (32 * 100 + 100 + 100 * 4 + 4)
"""The bytes of one row of the model below."""


def wide() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 100), nn.Tanh(), nn.Linear(100, 4)).double()


def losses_of(model: nn.Module) -> Tensor:
    x = torch.linspace(-3.0, 3.0, 32 * M, dtype=torch.float64).reshape(M, 32).sin()
    losses: Tensor = model(x).square().mean(1)
    return losses


def truth(name: str) -> Tensor:
    control = wide()
    OneByOne(control).backward(losses_of(control), method(name))
    return joined(control)


class Observer:
    """Collects what the engine falls back on."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    @jd.hooks.hookimpl
    def jd_fallback(self, name: str, reason: str) -> None:
        self.reasons.append(f"{name} {reason}")


@pytest.fixture
def observer() -> Iterator[Observer]:
    observer = Observer()
    jd.hooks.register(observer)
    yield observer
    jd.hooks.unregister(observer)


def step_within(limit: float, engine: Any, name: str, **limited: Any) -> Limited:
    """One step under a limit, in rows; the graph is there before."""
    losses = losses_of(engine.modules[0])
    device = Limited(int(limit * ROW), **limited)
    with device:
        engine.backward(losses, method(name))
    return device


def goes_on(engine: Any, name: str, limit: float, message: str, observer: Observer) -> None:
    with pytest.warns(
        UserWarning, match=f"chunked {message}.* and goes on: memory ran out"
    ) as seen:
        device = step_within(limit, engine, name)
    assert device.refused
    assert len(seen) == 1
    assert len(observer.reasons) >= 1
    assert all(reason.startswith("chunked ") for reason in observer.reasons)
    torch.testing.assert_close(joined(engine.modules[0]), truth(name), rtol=1e-12, atol=1e-14)


def stays_quiet(engine: Any, name: str, limit: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        device = step_within(limit, engine, name)
    assert not device.refused
    torch.testing.assert_close(joined(engine.modules[0]), 2 * truth(name), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", METHODS)
def test_too_many_rows_are_halved_and_the_step_goes_on(name: str, observer: Observer) -> None:
    engine = Chunked(wide(), offload="disk", memory="100KB", parallel_chunk_size=7)
    limit = 4.0 if name == "Gramian weighting" else 6.0
    goes_on(engine, name, limit, "takes 3 rows at once instead of 7", observer)
    stays_quiet(engine, name, limit)


@pytest.mark.parametrize("name", ["column-wise aggregator", "random column-wise aggregator"])
def test_too_many_columns_are_halved_and_the_step_goes_on(name: str, observer: Observer) -> None:
    engine = Chunked(wide(), offload="disk", memory="1GB")
    goes_on(engine, name, 5.0, "works on 1852 columns at once instead of 3704", observer)
    stays_quiet(engine, name, 5.0)


def test_what_is_drawn_from_torchs_generator_is_drawn_again_alike() -> None:
    found = []
    for limit in (5 * ROW, None):
        model = wide()
        losses = losses_of(model)
        engine = Chunked(model, offload="disk", memory="1GB")
        torch.manual_seed(0)
        with warnings.catch_warnings(), Limited(limit) as device:
            warnings.simplefilter("ignore")
            engine.backward(losses, Drawing())
        assert bool(device.refused) == (limit is not None)
        found.append(joined(model))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", METHODS)
def test_rows_that_do_not_fit_after_all_move_off_the_device(name: str, observer: Observer) -> None:
    engine = Chunked(wide(), memory="1GB")
    goes_on(engine, name, 7.9, "keeps the rows on the disk instead of the device", observer)
    stays_quiet(engine, name, 7.9)


def test_rows_move_in_the_middle_of_a_step(observer: Observer) -> None:
    engine = Chunked(wide(), memory="1GB")
    goes_on(engine, "Gramian weighting", 8.5, "keeps the rows on the disk", observer)


def test_a_method_of_the_whole_jacobian_is_called_again_elsewhere() -> None:
    class Copying(JacobianWeighting):
        def forward(self, jacobian: Tensor, /) -> Tensor:
            seen.append(jacobian.data_ptr())
            return jacobian.abs().amax(1)

    seen: list[int] = []
    model, control = wide(), wide()
    losses = losses_of(model)
    with pytest.warns(UserWarning, match="keeps the rows on the disk"), Limited(int(9.5 * ROW)):
        weights = Chunked(model, memory="1GB").backward(losses, Copying())
    assert len(set(seen)) == 2
    torch.testing.assert_close(weights, OneByOne(control).backward(losses_of(control), Copying()))
    torch.testing.assert_close(joined(model), joined(control))


@pytest.mark.parametrize("name", ["Gramian weighting", "column-wise aggregator"])
def test_without_offloading_rows_that_do_not_fit_are_taken_again(
    name: str, observer: Observer
) -> None:
    engine = Chunked(wide(), offload=None, memory="1GB")
    goes_on(engine, name, 6.0, "takes the rows again for each block of columns", observer)
    stays_quiet(engine, name, 6.0)


@pytest.mark.parametrize("offload", ["auto", "host", "disk", None])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_that_fails_in_the_end_leaves_grad_untouched(name: str, offload: Any) -> None:
    model = wide()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    engine = Chunked(model, offload=offload)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(torch.OutOfMemoryError, match="simulated"):
            step_within(0.5, engine, name)
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[0].bias.grad is None
    assert model[2].weight.grad is None
    model.zero_grad()
    engine.backward(losses_of(model), method(name))
    torch.testing.assert_close(joined(model), truth(name), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("offload", ["auto", None])
def test_where_the_only_row_has_freed_the_graph_the_error_is_the_allocators(offload: Any) -> None:
    model = wide()
    losses = losses_of(model)[:1]
    engine = Chunked(model, offload=offload)
    with pytest.raises(torch.OutOfMemoryError, match="simulated"), Limited(int(1.5 * ROW)):
        engine.backward(losses, method("Gramian weighting"))
    assert all(p.grad is None for p in model.parameters())


def test_failed_attempts_keep_nothing_alive() -> None:
    engine = Chunked(wide(), offload="disk", memory="1GB", parallel_chunk_size=8)
    with pytest.warns(UserWarning, match="memory ran out"):
        device = step_within(4.0, engine, "Gramian weighting")
    gc.collect()
    grads = sum(p.grad.nbytes for p in engine.modules[0].parameters() if p.grad is not None)
    assert device.live <= grads + 1000


@pytest.mark.parametrize("offload", ["host", "disk", None])
def test_another_error_passes_unchanged(offload: Any) -> None:
    model = wide()
    engine = Chunked(model, offload=offload, memory="100KB")
    with pytest.raises(RuntimeError, match="broken kernel"):
        step_within(0.5, engine, "Gramian weighting", error=RuntimeError("broken kernel"))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: not enough memory"
        ),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        MemoryError(),
    ],
    ids=str,
)
def test_every_allocators_message_is_known(error: Exception) -> None:
    def run() -> None:
        raise error

    assert is_out_of_memory(error)
    found = attempt(run)
    assert isinstance(found, OutOfMemory)
    assert found.reason
    assert found.error.__traceback__ is None


def test_a_real_allocation_that_is_too_large_is_known_as_out_of_memory() -> None:
    assert isinstance(attempt(lambda: torch.empty(1 << 60, dtype=torch.uint8)), OutOfMemory)


_UNDER_A_REAL_LIMIT = """
import resource, warnings
import torch
from torch import nn
from jdframework.bases import GramianWeighting
from jd_plugin_chunked import Chunked

class LargestFirst(GramianWeighting):
    def forward(self, gramian):
        return gramian.diagonal() / gramian.trace()

def step():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 1024), nn.Tanh(), nn.Linear(1024, 64))
    losses = model(torch.randn(64, 512)).square().mean(1)
    Chunked(model, memory="100GB").backward(losses, LargestFirst())
    return torch.cat([p.grad.flatten() for p in model.parameters()])

expected = step()
with open("/proc/self/status") as status:
    used = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (1024 * used + 60_000_000, resource.RLIM_INFINITY))
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    found = step()
assert len(seen) == 1 and "memory ran out" in str(seen[0].message), seen
torch.testing.assert_close(found, expected)
"""
"""The Jacobian takes 150 MB. The process may take 60 MB more, not counting what is mapped."""


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_a_process_that_may_not_take_the_memory_goes_on() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _UNDER_A_REAL_LIMIT], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
