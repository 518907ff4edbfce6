"""How many rows and columns are taken at once, and what happens where that was too many."""

from __future__ import annotations

import warnings
from typing import Final

import torch

from jdframework import hooks
from jdframework.autograd.memory import setting_in_bytes

from jd_plugin_chunked.layout import Layout
from jd_plugin_chunked.out_of_memory import OutOfMemory

_USUAL_SHARE: Final = 0.5
_MOST_ROWS: Final = 256
_COPIES_OF_A_PASS: Final = 4
"""A batched pass holds its result and parts of it, while the one before is copied away."""


class Budget:
    """The memory that the rows of a Jacobian may take on a device, and what follows from it.

    Where memory runs out all the same, less is taken at once from then on, in later steps too. The
    first time is told in a warning, each time to the hook ``jd_fallback``.

    :param memory: As the user gave it; a share is measured now.
    :param most_rows: At most so many rows a pass; None leaves it to the budget.
    :param device: Where the rows are computed.
    """

    def __init__(
        self, memory: str | float | None, most_rows: int | None, device: torch.device
    ) -> None:
        self.size = setting_in_bytes(memory or _USUAL_SHARE, device)
        """The budget in bytes."""
        self._given_rows = most_rows
        # On a CPU, batching gains nothing for models so large that their Jacobian does not fit.
        self._most_rows = most_rows or (1 if device.type == "cpu" else _MOST_ROWS)
        self._most_entries: int | None = None
        self._leaves_device = self._told = False

    def holds(self, m: int, layout: Layout) -> bool:
        """Whether the whole Jacobian may stay on the device, beside what is made of it.

        Once one may not, none does: two Jacobians of one step must be multiplied.
        """
        if 2 * m * layout.row_bytes > self.size:
            self.leave_device()
        return not self._leaves_device

    def leave_device(self) -> None:
        """No Jacobian stays on the device from now on."""
        self._leaves_device = True

    def rows(self, layout: Layout) -> int:
        """How many rows to take in one pass."""
        if self._given_rows is not None:
            return self._most_rows
        fitting = self.size // (_COPIES_OF_A_PASS * max(layout.row_bytes, 1))
        return min(max(fitting, 1), self._most_rows)

    def columns(self, m: int, layout: Layout, copies: int) -> int:
        """How many columns of all ``m`` rows to work on at once.

        What one ordinary backward pass takes is never refused, so a smaller budget counts as that.

        :param m: The number of rows.
        :param layout: Of the whole Jacobian.
        :param copies: How often what is done with the columns holds as much as they take.
        """
        held = max(self.size, 2 * layout.row_bytes)
        entries = held // (copies * max(layout.dtype.itemsize, 4))
        if self._most_entries is not None:
            entries = min(entries, self._most_entries)
        return max(entries // m, 1)

    def take_fewer_rows(self, tried: int, failure: OutOfMemory) -> None:
        """Halves the rows of a pass.

        :param tried: With how many memory ran out; more than one.
        :param failure: What the allocator said.
        """
        self._most_rows = tried // 2
        self.tell(failure, f"takes {self._most_rows} rows at once instead of {tried}")

    def take_fewer_columns(self, m: int, tried: int, failure: OutOfMemory) -> None:
        """Halves the columns that are worked on at once.

        :param m: The number of rows.
        :param tried: With how many columns memory ran out.
        :param failure: What the allocator said.
        :raises BaseException: the allocator's error, if there is nothing to halve.
        """
        if tried == 1:
            raise failure.error
        self._most_entries = tried // 2 * m
        self.tell(failure, f"works on {tried // 2} columns at once instead of {tried}")

    def tell(self, failure: OutOfMemory, remedy: str) -> None:
        """Tells users once, and observers each time, how the step goes on.

        :param failure: What the allocator said.
        :param remedy: What the engine does.
        """
        if not self._told:
            self._told = True
            warnings.warn(
                f"chunked {remedy} and goes on: memory ran out ({failure.reason}); a smaller "
                f"memory=… avoids the failed attempts",
                stacklevel=2,
            )
        hooks.call("jd_fallback", name="chunked", reason=f"{remedy}: {failure.reason}")
