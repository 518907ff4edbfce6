"""The peak of live memory: of all tensors on a CPU, of the allocator on a GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import nn
from torch.autograd.profiler import profile


def peak_bytes(run: Callable[[], object], model: nn.Module, device: str) -> int:
    """The most bytes that were live at once in a step, the parameters included.

    On a CPU every allocation and release is counted from the profiler's memory events, so that
    neither the noise of the resident set nor what the allocator hoards counts.

    :param run: The step, which is run once.
    :param model: Its gradients are freed first.
    :param device: ``"cpu"`` or ``"cuda"``.
    """
    model.zero_grad(set_to_none=True)
    gc.collect()
    own = sum(p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers()))
    return own + (_on_cpu(run) if device == "cpu" else _on_cuda(run))


def _on_cuda(run: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _on_cpu(run: Callable[[], object]) -> int:
    with profile(profile_memory=True) as profiler:
        run()
    assert profiler.kineto_results is not None
    changes = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for change in sorted(changes, key=lambda change: change.start_ns()):
        live += change.nbytes()
        peak = max(peak, live)
    return peak
