"""Where rows lie, and that nothing of them is left behind."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jdframework.bases import Aggregator, GramianWeighting

from jd_plugin_chunked import Chunked
from jd_plugin_chunked.layout import Layout
from jd_plugin_chunked.storage import matrix
from jd_plugin_chunked.transfer import OverlappingTransfer

from .limited import Limited
from .subjects import METHODS, OneByOne, joined, losses_of, method, odd_model

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Watching(Aggregator):
    """Looks at the directory in the middle of a step, and at the memory of what it is given."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self.files: list[str] = []
        self.mapped = False

    def forward(self, jacobian: Tensor, /) -> Tensor:
        self.files = os.listdir(self._directory)
        self.mapped = _lies_in(jacobian, self._directory)
        return jacobian.sum(0)


def _lies_in(tensor: Tensor, directory: Path) -> bool:
    """Whether the tensor's memory is mapped from a file that was in the directory."""
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text("utf-8").splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= address < last:
            return str(directory) in line
    return False


def test_rows_on_disk_lie_in_a_file_that_has_no_name_any_more(tmp_path: Path) -> None:
    model, watching = odd_model(), Watching(tmp_path)
    Chunked(model, offload="disk", directory=str(tmp_path)).backward(losses_of(model), watching)
    assert watching.mapped == Path("/proc/self/maps").exists()
    assert watching.files == []
    assert os.listdir(tmp_path) == []


def test_an_exception_leaves_no_file_and_no_mapping(tmp_path: Path) -> None:
    class Failing(GramianWeighting):
        def forward(self, gramian: Tensor, /) -> Tensor:
            raise ArithmeticError("no luck")

    model = odd_model()
    engine = Chunked(model, offload="disk", directory=str(tmp_path))
    for _ in range(3):
        with pytest.raises(ArithmeticError, match="no luck"):
            engine.backward(losses_of(model), Failing())
    assert os.listdir(tmp_path) == []
    if (maps := Path("/proc/self/maps")).exists():
        assert str(tmp_path) not in maps.read_text("utf-8")


def test_a_jacobian_on_disk_lives_as_long_as_its_tensors(tmp_path: Path) -> None:
    model = odd_model()
    blocks = Chunked(model, offload="disk", directory=str(tmp_path)).compute_jacobian(
        losses_of(model)
    )
    expected = OneByOne(model).compute_jacobian(losses_of(model))
    assert _lies_in(blocks[0], tmp_path) == Path("/proc/self/maps").exists()
    for block, wanted in zip(blocks, expected, strict=True):
        torch.testing.assert_close(block, wanted)


def test_a_full_disk_is_an_error_and_not_a_killed_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    model = odd_model()
    engine = Chunked(model, offload="disk", directory=str(tmp_path))
    with pytest.raises(OSError, match=r"No space left.*memory-mapped.*directory="):
        engine.backward(losses_of(model), method("Gramian weighting"))
    assert os.listdir(tmp_path) == []
    assert all(p.grad is None for p in model.parameters())


def test_the_space_on_disk_is_taken_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "posix_fallocate", lambda *given: sizes.append(given[2]))
    matrix("disk", 3, Layout([torch.zeros(5), torch.zeros(2, 2)]), str(tmp_path))
    assert sizes == [3 * 9 * 4]


def test_auto_keeps_rows_on_the_device_if_they_fit_and_else_on_disk(tmp_path: Path) -> None:
    for memory, on_disk in (("1MB", False), ("1KB", True)):
        model, watching = odd_model(), Watching(tmp_path)
        engine = Chunked(model, memory=memory, directory=str(tmp_path))
        engine.backward(losses_of(model), watching)
        assert watching.mapped == (on_disk and Path("/proc/self/maps").exists())


def test_once_one_jacobian_has_left_the_device_all_do(tmp_path: Path) -> None:
    model = odd_model()
    engine = Chunked(model, memory="3KB", directory=str(tmp_path))
    for m, on_disk in ((1, False), (7, True), (1, True)):
        first = engine.compute_jacobian(losses_of(model)[:m])[0]
        assert _lies_in(first, tmp_path) == (on_disk and Path("/proc/self/maps").exists())


@pytest.mark.parametrize(
    ("name", "offload"),
    [
        *((name, "disk") for name in METHODS),
        ("Gramian weighting", None),
        ("column-wise aggregator", None),
    ],
)
def test_a_step_stays_within_its_budget(name: str, offload: str | None) -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(8) for layer in (nn.Linear(40, 40), nn.Tanh())]
    model = nn.Sequential(*layers).double()
    x = torch.linspace(-1, 1, 16 * 40, dtype=torch.float64).reshape(16, 40).sin()
    row = sum(p.nbytes for p in model.parameters())
    losses = model(x).square().mean(1)
    engine = Chunked(model, offload=offload, memory=f"{4 * row}B")
    with Limited() as device:
        engine.backward(losses, method(name))
    # The budget is beyond what an ordinary backward pass takes: here, one row.
    assert device.peak <= (4 + 1) * row + 50_000


def test_copies_beside_the_computation_wait_for_it_and_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Stream:
        def __init__(self, device: torch.device) -> None:
            pass

        def synchronize(self) -> None:
            calls.append("synchronize")

        def wait_stream(self, other: str) -> None:
            calls.append(f"wait for {other}")

    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: "the computation")
    monkeypatch.setattr(Tensor, "record_stream", lambda *_: calls.append("keep"))
    layout = Layout([torch.empty(2, 2), torch.empty(3), torch.empty(())])
    rows = torch.full((3, layout.n), torch.nan)
    transfer = OverlappingTransfer(rows, layout)
    whole = torch.arange(12.0).reshape(3, 2, 2)
    transfer.put(0, 2, [whole[:2].mT, None, torch.tensor([5.0, 6.0])])
    transfer.put(2, 1, [whole[2:].mT, torch.ones(1, 3), None])
    transfer.finish()
    expected = [[0.0, 2.0, 1.0, 3.0, 0, 0, 0, 5], [4.0, 6.0, 5.0, 7.0, 0, 0, 0, 6]]
    assert rows.tolist() == [*expected, [8.0, 10.0, 9.0, 11.0, 1, 1, 1, 0]]
    start = ["synchronize", "wait for the computation"]
    assert calls == [*start, *["keep"] * 4, *start, *["keep"] * 2, "synchronize"]


@needs_cuda
@pytest.mark.parametrize("chunk", [None, 1, 3])
@pytest.mark.parametrize("offload", ["auto", "host", "disk", None])
@pytest.mark.parametrize("name", METHODS)
def test_rows_of_a_cuda_model_are_the_same_wherever_they_lie(
    name: str, offload: str | None, chunk: int | None
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 512), nn.Tanh(), nn.Linear(512, 64)).double().cuda()
    x = torch.randn(32, 64, dtype=torch.float64, device="cuda")
    engine = Chunked(model, offload=offload, memory="4MB", parallel_chunk_size=chunk)
    for _ in range(3):
        engine.backward(model(x).square().mean(1), method(name))
    found = joined(model)
    model.zero_grad()
    for _ in range(3):
        OneByOne(model).backward(model(x).square().mean(1), method(name))
    torch.testing.assert_close(found, joined(model), rtol=1e-9, atol=1e-12)


@needs_cuda
def test_rows_of_a_cuda_model_lie_in_pinned_memory() -> None:
    layout = Layout([torch.zeros(4, device="cuda")])
    assert matrix("host", 3, layout, None).is_pinned()
