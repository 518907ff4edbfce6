"""Copying rows to where they are kept, on CUDA beside the computation of the next ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jdframework.linearization.blocks import as_reals

from jd_plugin_chunked.layout import Layout


class Transfer:
    """Copies rows into a matrix as they come.

    :param matrix: ``[m, n]``, on the device or anywhere else.
    :param layout: Of its columns.
    """

    def __init__(self, matrix: Tensor, layout: Layout) -> None:
        self._matrix, self._layout = matrix, layout

    def put(self, first: int, count: int, found: Sequence[Tensor | None]) -> None:
        """Copies some rows.

        :param first: The first row.
        :param count: How many.
        :param found: ``[count, *input.shape]`` per input, None where they are zero.
        """
        for position, gradient in enumerate(found):
            target = self._matrix[first : first + count, self._layout.columns(position)]
            if gradient is None:
                target.zero_()
            else:
                target.copy_(as_reals(gradient).reshape(count, -1))

    def finish(self) -> None:
        """Returns when all rows are there."""


class OverlappingTransfer(Transfer):
    """From CUDA to pinned memory, on a stream of its own.

    The copies of one chunk run while the next is computed. Before a third is copied the first is
    waited for, so that no more than two chunks are ever alive.

    :param matrix: ``[m, n]``, in pinned memory.
    :param layout: Of its columns, which are on a CUDA device.
    """

    def __init__(self, matrix: Tensor, layout: Layout) -> None:
        super().__init__(matrix, layout)
        self._stream = torch.cuda.Stream(layout.device)

    def put(self, first: int, count: int, found: Sequence[Tensor | None]) -> None:
        """See :meth:`Transfer.put`; the tensors must not be written afterwards."""
        self._stream.synchronize()
        self._stream.wait_stream(torch.cuda.current_stream(self._layout.device))
        with torch.cuda.stream(self._stream):
            for position, gradient in enumerate(found):
                columns = self._layout.columns(position)
                for row in range(count):
                    target = self._matrix[first + row, columns]
                    if gradient is None:
                        target.zero_()
                        continue
                    # A row's columns of one input are contiguous: only such copies overlap.
                    target.copy_(as_reals(gradient[row]).reshape(-1), non_blocking=True)
                    gradient.record_stream(self._stream)

    def finish(self) -> None:
        """Returns when all rows are there."""
        self._stream.synchronize()


def transfer_to(matrix: Tensor, layout: Layout) -> Transfer:
    """How rows are copied to a matrix.

    :param matrix: Where to.
    :param layout: Of its columns.
    """
    if layout.device.type == "cuda" and matrix.device.type == "cpu" and matrix.is_pinned():
        return OverlappingTransfer(matrix, layout)
    return Transfer(matrix, layout)


def on_device(matrix: Tensor, start: int, stop: int, device: torch.device) -> Tensor:
    """Some columns of a matrix, on the device: the matrix's own where it lies there.

    :param matrix: ``[m, n]``.
    :param start: The first column.
    :param stop: The one after the last.
    :param device: Where to.
    """
    columns = matrix[:, start:stop]
    if matrix.device == device:
        return columns
    block = torch.empty(columns.shape, dtype=matrix.dtype, device=device)
    for row, source in zip(block, columns, strict=True):
        row.copy_(source, non_blocking=True)
    return block
