"""Where the rows of a Jacobian can lie: on the device, on the host, or in a file on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from jdframework.autograd.memory import free_on_host

from jd_plugin_chunked.layout import Layout

Place: TypeAlias = Literal["device", "host", "disk"]


def matrix(place: Place, m: int, layout: Layout, directory: str | None) -> Tensor:
    """An uninitialised ``[m, n]``.

    :param place: Where it lies.
    :param m: The number of rows.
    :param layout: Of its columns.
    :param directory: Where files go; None is the system's place for temporary files.
    :raises OSError: if the disk is full.
    """
    return _MATRICES[place](m, layout, directory)


def host_has_room(m: int, layout: Layout) -> bool:
    """Whether the rows take no more than half of what is free on the host."""
    # Of pinned memory torch takes the next power of two, which may be twice as much.
    return 2 * m * layout.row_bytes <= free_on_host()


def _on_device(m: int, layout: Layout, _: str | None) -> Tensor:
    return torch.empty((m, layout.n), dtype=layout.dtype, device=layout.device)


def _on_host(m: int, layout: Layout, _: str | None) -> Tensor:
    # Only from and to pinned memory can copies run beside the computation.
    pinned = layout.device.type == "cuda"
    return torch.empty((m, layout.n), dtype=layout.dtype, device="cpu", pin_memory=pinned)


def _on_disk(m: int, layout: Layout, directory: str | None) -> Tensor:
    if not layout.n:
        return torch.empty((m, 0), dtype=layout.dtype, device="cpu")
    handle, path = tempfile.mkstemp(prefix="jd-chunked-", dir=directory)
    try:
        try:
            _reserve(handle, m * layout.row_bytes)
        finally:
            os.close(handle)
        mapped = np.memmap(path, np.uint8, mode="r+", shape=(m * layout.row_bytes,))
    finally:
        # The memory stays mapped; without its name, the file goes with the last tensor on it,
        # whatever is raised meanwhile and even if the process is killed.
        os.unlink(path)
    return torch.from_numpy(mapped).view(layout.dtype).view(m, layout.n)


def _reserve(handle: int, size: int) -> None:
    """Takes the space now: a write to mapped memory on a full disk would kill the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}: chunked cannot take {size} bytes for a memory-mapped file; "
            f"choose another place by directory=…",
        ) from None


_MATRICES: Final[dict[Place, Callable[[int, Layout, str | None], Tensor]]] = {
    "device": _on_device,
    "host": _on_host,
    "disk": _on_disk,
}
